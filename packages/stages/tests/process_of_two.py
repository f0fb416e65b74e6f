"""One of two processes of four devices each (started by test_devices.py).

    process_of_two.py PORT RANK [leave]

Prints as JSON what it has got from the first process, and which rows it reads under some meshes.
`leave`: the first one ends without a word.
"""

import json
import sys

import jax
import numpy as np

from coldforge.stages import devices
from coldforge.stages.options import Distributed, MeshConfig


def main(port: str, rank: int, leave: bool = False) -> None:
    devices.join(Distributed(initialize=True, coordinator=f"localhost:{port}", processes=2, process=rank))
    own = {
        "rewards": np.array([[0.1, np.pi], [1e-300, -np.inf]]) * (1 if rank == 0 else 0),  # float64
        "right": (np.arange(1500) % 3 == 0) & (rank == 0),
        "step": np.int64(2**40 + 1) if rank == 0 else np.int64(0),
        "none": np.zeros((0, 2), np.float32),
    }
    got = devices.from_first(own)
    meshes = {
        "data 8": MeshConfig(),
        "data 2 fsdp 2 tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
        "tensor 8": MeshConfig(tensor=8),
    }
    done = []

    def work(code: int) -> int:
        done.append(code)
        if code < 0:
            raise KeyError("refused")
        return code

    codes: list[object] = [devices.first_does(lambda: work(7))]
    try:
        codes.append(devices.first_does(lambda: work(-1)))
    except KeyError as error:
        codes.append(str(error))
    print(json.dumps({
        "codes": codes, "done": done,
        "dtypes": {name: str(array.dtype) for name, array in got.items()},
        "rewards": [value.hex() for value in got["rewards"].ravel().tolist()],
        "right": int(got["right"].sum()), "step": int(got["step"]), "none": got["none"].shape,
        "writable": got["rewards"].flags.writeable,
        "yes": devices.everybodys(rank == 0), "no": devices.everybodys(rank == 1), "first": devices.first(),
        "shares": {name: devices.row_share(devices.make_mesh(mesh)) for name, mesh in meshes.items()},
        "devices": jax.device_count(),
    }), flush=True)  # fmt: skip
    if leave and rank == 0:
        devices.leave_the_others()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["leave"])
