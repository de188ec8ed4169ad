"""Compiles the kernels that sections will launch before they do, each in a process of its own: with a GPU or without.

Triton compiles a kernel when it is first launched, about a second each, one after the other, while the device waits.
Here the sections run on torch's CPU device as if it were a GPU (`dry_run`), nothing is launched, and what would have
been compiled is, into TRITON_CACHE_DIR. Triton finds it there again by the kernel's source, its arguments' types, the
compute capability and its own version: what one machine compiled serves another that has the same release.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

LIMIT_S = 120.0  # of one kernel: the slowest takes some 3 s


def compile_ahead(runs: Sequence[tuple[str, Any]], capability: tuple[int, int], num_processes: int) -> int:
    """Of all runs, (name, callable): how many kernels failed to compile. A run that fails is told of and left."""
    pool = CompilePool(GPUTarget("cuda", 10 * capability[0] + capability[1], 32), num_processes)
    triton.runtime.driver.set_active(_NamedTarget(pool.target))
    started = time.perf_counter()
    knobs.runtime.jit_cache_hook = pool.take
    for name, run in runs:
        before, began = pool.num_kernels, time.perf_counter()
        try:
            run()
        except Exception as error:  # its kernels are compiled when it runs on the device
            print(f"compile: {name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            traceback.print_exc(limit=-3)
        seconds = time.perf_counter() - began
        if pool.num_kernels > before or seconds > 5:
            print(f"compile: {name}: {pool.num_kernels - before} kernels, {seconds:.1f} s", flush=True)
    pool.finish()
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"compile: {pool.num_kernels} kernels for sm_{pool.target.arch}, {pool.num_failed} failed, {seconds:.1f} s, "
        f"{num_processes} at a time, {used.ru_utime + used.ru_stime:.1f} s of processors, in {knobs.cache.dir}",
        flush=True,
    )
    return pool.num_failed


@dataclass
class CompilePool:
    """A child for each kernel: it inherits what cannot be sent, and a crash of the compiler is its own."""

    target: GPUTarget
    num_processes: int
    num_kernels: int = 0
    num_failed: int = 0
    _keys: set[tuple[str, str]] = field(default_factory=set)
    _children: dict[int, tuple[str, float]] = field(default_factory=dict)

    def take(self, *, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        """Triton's hook before it compiles: True keeps it from doing so, and from launching."""
        key = fn.jit_function.cache_key, str(compile["key"])
        if key in self._keys:
            return True
        self._keys.add(key)
        self.num_kernels += 1
        while len(self._children) >= self.num_processes:
            self._reap(wait_s=LIMIT_S)
        source = ASTSource(fn.jit_function, compile["signature"], compile["constants"], compile["configs"][0])
        options = {name: compile[name] for name in ("num_warps", "num_ctas", "num_stages", "enable_fp_fusion")}
        child = os.fork()
        if not child:
            self._compile(source, options)
        self._children[child] = fn.name, time.monotonic()
        return True

    def finish(self) -> None:
        while self._children:
            self._reap(wait_s=LIMIT_S)

    def _compile(self, source: ASTSource, options: dict[str, Any]) -> None:
        """In the child, which ends here."""
        code = 1
        try:
            kernel = triton.compile(source, self.target, options)
            _make_launcher(source, kernel)
            code = 0
        except BaseException:
            traceback.print_exc(limit=-2)
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self, wait_s: float) -> None:
        """One child at least; those that hang are ended."""
        while True:
            for child, (name, since) in list(self._children.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    del self._children[child]
                    self.num_failed += bool(status)
                    if status:
                        print(f"compile: {name} failed", flush=True)
                    return
                if time.monotonic() - since > wait_s:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def _make_launcher(source: ASTSource, kernel: Any) -> None:
    """The C function that launches it, which a compiler makes once for each list of types: only where a driver is."""
    if os.path.exists("/dev/nvidiactl"):
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(source, kernel.metadata)


class _NamedTarget:
    """In the place of Triton's driver: a device that is named and not there."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0
