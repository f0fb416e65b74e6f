"""What the programs of all pipeline stages share; a stage's app brings its loop, presets and limits.

Where to read: `options` is what every stage can be told, `find` looks for weights, tokenizer and the form of replies,
`program` is what a program does around its work (importing these three imports no JAX). `devices` makes the mesh,
`model` puts the model on it, `output` writes what the next stage reads. `grade` says what held-out replies are worth,
`gate` shows the verdict, `report` makes a page of it.
"""
