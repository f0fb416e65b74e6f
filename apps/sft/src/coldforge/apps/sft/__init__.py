"""Cold-start SFT of a Gemma3 on any TPU mesh, from a prepared data set to a model that passes its gate.

Where to read: `main` is the stage's story. `config` says what can be set, `presets` sets it. `inputs` finds and checks
what a run reads; mesh and model are made by `coldforge.stages`, the policy to begin with by `start`, the compiled steps
by `build`; `train` wires the loop of `coldforge.sft` to files and a terminal; `ask`, `grade` and `verdict` are the
gate; `output` has the run's numbers, `story` the report's words.
"""
