"""Reports for people: one HTML page, or a model card, from the facts of one or several runs.

`facts.py` says what a run's facts are; `from_recipe.py`, `from_evaluation.py` and `from_certificate.py` take
them from what secateur writes, `files.py` from files, and `moved.py` from the two networks themselves.
`sections.py` is the table of the page's sections, `picture.py` draws, and `render.py` makes the text.
"""
