"""The bundled picture set: clipart10.parquet, the script that made it, and what is in it (README.md)."""
