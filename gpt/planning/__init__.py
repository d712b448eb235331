"""What a command will need before it is begun: `train.py --plan`, and refusals of what cannot fit.

`memory.py` derives the peak memory from shapes; `limits.py` reads what there is; `check.py` compares the two and says
which flag would help; `plan.py` prints it all, with the time of a step.
"""
