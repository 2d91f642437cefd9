"""The papers' experiments, each from one command: `w2s reproduce`.

`experiment` says what is drawn and how the table's rows follow from it, `draws` runs it batch by
batch, `store` keeps every finished batch, `figures` judges the texts, `tables` and `plots` show
what was found.
"""
