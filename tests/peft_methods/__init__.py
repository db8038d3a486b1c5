"""Tests of the PEFT methods."""
