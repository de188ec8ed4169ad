"""Makes the model that the package carries: prepare text, train, export. Outside the wheel; needs `vivace[train]`.

`training/embedded.sh TEXT_FOLDER WORK_FOLDER` runs the three steps; each is also a command,
`python -m training.prepare` and so on.
"""
