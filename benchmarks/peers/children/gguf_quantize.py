"""Make another kind of GGUF by llama.cpp's own quantiser: `gguf_quantize.py FROM TO KIND`."""

import sys

import llama_cpp as ll

KINDS = {
    "q8_0": ll.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": ll.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": ll.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "bf16": ll.LLAMA_FTYPE_MOSTLY_BF16,
}

if __name__ == "__main__":
    wanted = ll.llama_model_quantize_default_params()
    wanted.ftype = KINDS[sys.argv[3]]
    status = ll.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), wanted)
    assert status == 0, f"llama_model_quantize returned {status}"
