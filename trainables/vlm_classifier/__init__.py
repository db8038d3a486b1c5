"""A head on the features of an image and text model, with or without adapters in it."""
