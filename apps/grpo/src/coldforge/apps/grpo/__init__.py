"""`coldforge-grpo`: from a cold start to a policy whose answers are right more often.

Read in this order: `main` (the stage's story), `start` (the policy to begin with), `build` (model, sampler and compiled
steps), `train` (what the loop is given), `judge` (rewards), `ask` (held-out questions), `verdict` (before and after);
`config` and `presets` are all that can be set, `inputs` and `checks` what is found and checked before anything
expensive, `story` is the report's words.
"""
