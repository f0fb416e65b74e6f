"""`coldforge-grpo`: from a cold start to a policy whose answers are right more often.

Read in this order: `main` (the stage's story), `build` (model, sampler and compiled steps), `train` (what the loop is
given), `judge` (rewards), `ask` (held-out questions); `config` and `presets` are all that can be set, `inputs` what is
found and checked before anything expensive.
"""
