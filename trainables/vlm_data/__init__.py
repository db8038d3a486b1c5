"""Rows of picture, words and answers for vision-language trainables: readers of published data sets, prompts, subsets, splits."""
