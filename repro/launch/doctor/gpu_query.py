"""Ask the NVIDIA driver for its GPUs, without torch: `python gpu_query.py` prints JSON.

    {"cuda": 12040, "gpus": [["NVIDIA H200", 9, 0]]}    the newest CUDA that the driver knows, and
                                                        name and compute capability of each GPU
    {"error": "cuInit: 999"}                            the driver's error code
    {}                                                  there is no driver

It runs in a process of its own, since a broken driver may hang or crash. It imports nothing of
ours.
"""

import ctypes
import json

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def query() -> dict[str, object]:
    """What the driver knows."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    value = ctypes.c_int()
    if status := cuda.cuInit(0):
        return {"cuda": 0, "gpus": []} if status == _NO_DEVICE else {"error": f"cuInit: {status}"}
    cuda.cuDriverGetVersion(ctypes.byref(value))
    version = value.value
    cuda.cuDeviceGetCount(ctypes.byref(value))
    gpus = []
    for number in range(value.value):
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetName(name, len(name), number)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, number)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, number)
        gpus.append((name.value.decode(errors="replace"), major.value, minor.value))
    return {"cuda": version, "gpus": gpus}


if __name__ == "__main__":
    print(json.dumps(query()))
