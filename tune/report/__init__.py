"""What a study found, for people: `phasetune report` and `phasetune compare`.

`facts` folds a journal; `sections` and `compare` make a `document` of facts; `page` (HTML) and `markdown` print a document.
"""
