"""What counts as a read from the device."""

import torch

from benchmarks.host_reads import HostReads, host_reads


def test_reads_are_counted() -> None:
    x = torch.tensor([1.0, 2.0])
    with HostReads() as reads:
        _ = x + x
        _ = x[torch.tensor([0])]
        assert reads.count == 0
        _ = int(x[0]), x[1].item(), x.tolist(), bool(x[0] > 0)
        assert reads.count == 4
        _ = x[x > 1], x.nonzero()
        assert reads.count == 6
        host = 2 * (x + x).cpu()
        assert reads.count == 7
        _ = host.tolist(), int(host[0]), host.nonzero(), host[host > 1]  # is on the host
        assert reads.count == 7
        _ = (host + (x + x)).tolist()  # comes from the device, too
        assert reads.count == 8


def test_work_runs_uncompiled() -> None:
    seen = []

    @torch.compile
    def work() -> torch.Tensor:
        seen.append(torch.compiler.is_compiling())
        return torch.ones(3).cpu()

    assert host_reads(work) == 1
    assert seen == [False]
