"""Fast-LLM's own fixed bugs, put back into today's code: red before the fix, green after it?

`pairs` says which, `recreation` puts a bug back into a scratch copy of a checkout, `judging` runs hub-tests' judge on
both states, and `results` makes the table. Only commit ids, file names and words of our own are kept here.
"""
