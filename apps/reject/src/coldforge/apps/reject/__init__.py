"""`coldforge-reject`: a policy's own right and clean samples become a data set to train on.

Read in this order: `main` (the stage's story), `sample` (questions asked, replies judged and logged), `judge` (what a
reply is worth); `config` and `presets` are all that can be set, `inputs` what is found and checked before anything
expensive, `plan` whose directory it is; `progress` and `tables` are for people. What is kept, and how it becomes a data
set, is `coldforge.data.rejection`.
"""
