"""Two recordings of the same requests, or a recording and what a live server answered: are the
results the same?

Must not know: how they came about.
"""
