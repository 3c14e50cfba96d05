"""What `torch.nn.attention.varlen.varlen_attn` computes, for machines without the CUDA kernel."""

import pytest
import torch
from torch import nn


def kernel_on_the_cpu(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """From its documentation: like the kernel it takes equal heads and dtypes, and where a sequence has more keys than
    queries its last query meets its last key."""
    assert query.shape[1:] == key.shape[1:] == value.shape[1:]
    assert query.dtype == key.dtype == value.dtype
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    assert (len(query), len(key)) == (int(cu_q[-1]), int(cu_k[-1]))
    of_query, of_key = (torch.repeat_interleave(bounds.diff().long()) for bounds in (cu_q, cu_k))
    from_the_end_q = cu_q[1:][of_query] - torch.arange(len(query))
    from_the_end_k = cu_k[1:][of_key] - torch.arange(len(key))
    distance = from_the_end_k - from_the_end_q[:, None]
    allowed = of_query[:, None] == of_key
    for limit, behind in ((window_size[0], distance), (window_size[1], -distance)):
        allowed &= (behind <= limit) if limit >= 0 else True
    q_HTD, k_HTD, v_HTD = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    out = nn.functional.scaled_dot_product_attention(q_HTD, k_HTD, v_HTD, attn_mask=allowed, scale=scale)
    return out[0].transpose(0, 1)


@pytest.fixture
def varlen_kernel(monkeypatch):
    """The CUDA kernel's part played by a reference; the tests on the GPU take the real one."""
    monkeypatch.setattr("modeling_finevit.attention.varlen_attn", kernel_on_the_cpu)
    for user in ("modeling_finevit.attention", "finevit_vl.packed_attention"):
        monkeypatch.setattr(f"{user}.has_varlen_kernel", lambda states: True)
