"""Measure what inference over HTTP costs beside the bare call of the library.

    python -m tests.serving.overhead

It prints the seconds of both for one volume of 64 x 256 x 256, the least of several rounds that alternate; how many of
them the transport of the tensors takes, and how many the choice of the basis, in which the noise is estimated; the call
of the library estimates it while it denoises.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import ctbasis
from ctbasis.serving.serve import Serving
from tests.serving.test_serving import TOKEN, Client, outputs_of, request_of

ROUNDS = 3

SHAPE = (64, 256, 256)


def main(rounds: int = ROUNDS) -> None:
    slices, rows, columns = SHAPE
    phantom = ctbasis.chest_phantom(slices=slices, rows=rows, columns=columns)
    noisy = ctbasis.simulate_dose(phantom, photons=3e4)
    volume = ctbasis.Volume(np.round(noisy.hu).astype(np.int16), noisy.spacing)
    with tempfile.TemporaryDirectory() as folder:
        basis = str(Path(folder) / "basis")
        ctbasis.denoise(volume, keep_basis=basis)
        serving = Serving((basis,), host="127.0.0.1", port=0, token=TOKEN)
        with serving.running() as (server, model):
            model.load()
            client = Client(server.port)
            bare, binary, plain, transport, choosing = [], [], [], [], []
            for _ in range(rounds):
                start = time.perf_counter()
                ctbasis.denoise(volume, basis=basis)
                bare.append(time.perf_counter() - start)
                for is_binary, seconds in ((True, binary), (False, plain)):
                    start = time.perf_counter()
                    answer = client.infer(*request_of(volume, binary=is_binary))
                    answer.raise_for_status()
                    record = outputs_of(answer)[0]["parameters"]
                    seconds.append(time.perf_counter() - start)
                    if is_binary:
                        transport.append(seconds[-1] - record["seconds"])
                        choosing.append(record["choosing"])
    for name, seconds in (("library", bare), ("HTTP, binary tensors", binary), ("HTTP, JSON", plain)):
        print(f"{name}: {min(seconds):.2f} s, {min(seconds) / min(bare) - 1:+.1%}")  # noqa: T201 - the result
    for name, seconds in (("transport, binary tensors", transport), ("noise and choice of the basis", choosing)):
        print(f"{name}: {min(seconds):.2f} s, {min(seconds) / min(bare):.1%}")  # noqa: T201 - the result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
