"""PyTorch's attention at the shapes of `baton bench kernels`: 32 query heads, 8 KV heads of 128, bf16."""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def rate(queries, keys, causal, backend):
    q = torch.randn(1, 32, queries, 128, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, 8, keys, 128, device="cuda", dtype=torch.bfloat16)
    v = torch.randn_like(k)
    times = []
    with sdpa_kernel(backend):
        for run in range(7):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            ended.record()
            torch.cuda.synchronize()
            times.append(begun.elapsed_time(ended))
    pairs = queries * (queries + 1) / 2 if causal else queries * keys
    return 4 * pairs * 128 * 32 / sorted(times[2:])[2] / 1e9


print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
for queries, keys, causal in [
    (5120, 5120, True), (4096, 3584, False), (10240, 10240, True), (8192, 7168, False),
    (20480, 20480, True), (16384, 14336, False), (8192, 8192, True), (8192, 8192, False),
]:
    line = f"{queries} of {keys} keys, {'causal' if causal else 'dense'}:"
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        try:
            line += f"  {name} {rate(queries, keys, causal, backend):.0f} TFLOP/s"
        except RuntimeError as refused:
            line += f"  {name} refused ({str(refused).splitlines()[0][:50]})"
    print(line)
