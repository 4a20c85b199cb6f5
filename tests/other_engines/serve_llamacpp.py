"""Run llama.cpp's server: ``serve_llamacpp.py PORT MODEL.gguf``. Needs the package xllamacpp, and nothing else."""

from __future__ import annotations

import sys
import time

from xllamacpp import CommonParams, Server  # type: ignore[import-not-found]

params = CommonParams()
params.model.path = sys.argv[2]
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[1])
params.n_parallel = 4
params.n_ctx = 4096
params.cpuparams.n_threads = 1  # more of them spin while they wait for each other, which on a busy machine is for long
params.cpuparams_batch.n_threads = 1
server = Server(params)
while True:
    time.sleep(60)
