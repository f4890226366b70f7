"""Train `austen`, the model embedded in Wordline, from Jane Austen's six novels.

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb novels
    pip install torch==2.13.0 numpy tokenizers safetensors rdata
    python train.py novels --steps 6000
    python train.py novels --steps 4500 --ternary --out ../austen_ternary

A Llama-architecture transformer of about half a million parameters. The last part of the training
runs with weights rounded to 4 bits in groups of 64 (straight-through), so that the model
tolerates the rounding that accelerators do to it. With ``--ternary`` the whole training runs with ternary
matrices and 8-bit activations (BitNet b1.58, arXiv 2402.17764); embedding and output head keep 8 bits.
"""

import argparse
import gzip
import json
import math
import time
import zlib
from pathlib import Path

import numpy as np
import rdata
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOOKS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion"]
VOCAB = 512
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 256, "vocab_size": VOCAB, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    "bos_token_id": 0, "eos_token_id": 0,
}
LAYERS, D, HEADS, KV_HEADS, HEAD = 3, 128, 4, 2, 32


def read_novels(folder: Path) -> tuple[str, str]:
    """Training and held-out text: the last 3 % of every novel is held out. Hard breaks unwrapped."""
    parse = lambda raw: rdata.conversion.convert(rdata.parser.parse_data(raw))  # noqa: E731
    index = next(folder.rglob("janeaustenr/data/Rdata.rdx"))
    places = parse(gzip.decompress(index.read_bytes()))["variables"]
    raw = index.with_suffix(".rdb").read_bytes()
    train, held = [], []
    for book in BOOKS:
        offset, size = (int(n) for n in places[book])
        # An R lazy-load database: four bytes of length, then a zlib stream, for each object.
        lines = [str(line) for line in parse(zlib.decompress(raw[offset + 4 : offset + size]))]
        paragraphs = "\n".join(lines).split("\n\n")
        text = "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
        cut = text.rfind("\n\n", 0, int(len(text) * 0.97))
        train.append(text[:cut])
        held.append(text[cut:].strip())
    return "\n\n".join(train), "\n\n".join(held)


def make_tokenizer(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def round_weights(w: torch.Tensor, bits: int, group: int = 64) -> torch.Tensor:
    """Symmetric rounding in groups along the input dimension; gradients pass straight through."""
    g = w.reshape(w.shape[0], -1, group)
    top = 2 ** (bits - 1) - 1
    scale = g.abs().amax(-1, keepdim=True).clamp_min(1e-8) / top
    return w + ((g / scale).round().clamp(-top, top) * scale).reshape(w.shape).sub(w).detach()


def round_ternary(w: torch.Tensor) -> torch.Tensor:
    """-s, 0 or s with s the tensor's mean magnitude, whichever is nearest (BitNet b1.58); straight-through."""
    scale = w.abs().mean().clamp_min(1e-8)
    return w + ((w / scale).round().clamp(-1, 1) * scale).sub(w).detach()


def round_acts(x: torch.Tensor) -> torch.Tensor:
    """8-bit integers, one scale a token; straight-through."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return x + ((x / scale).round() * scale).sub(x).detach()


TERNARY = -1  # for `bits`
NAMES = {0: "float", 3: "3 bits", 4: "4 bits", TERNARY: "ternary"}


class Llama(torch.nn.Module):
    """Parameters under their Hugging Face names; `bits` 0 is float, else weights are rounded, TERNARY as BitNet."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"model.embed_tokens": (CONFIG["vocab_size"], D), "model.norm": (D,)}
        for i in range(LAYERS):
            p, kv, ffn = f"model.layers.{i}.", KV_HEADS * HEAD, CONFIG["intermediate_size"]
            shapes |= {p + "input_layernorm": (D,), p + "post_attention_layernorm": (D,),
                       p + "self_attn.q_proj": (HEADS * HEAD, D), p + "self_attn.k_proj": (kv, D),
                       p + "self_attn.v_proj": (kv, D), p + "self_attn.o_proj": (D, HEADS * HEAD),
                       p + "mlp.gate_proj": (ffn, D), p + "mlp.up_proj": (ffn, D),
                       p + "mlp.down_proj": (D, ffn)}
        self.w = torch.nn.ParameterDict()
        for name, shape in shapes.items():
            deep = 1 / math.sqrt(2 * LAYERS) if name.endswith(("o_proj", "down_proj")) else 1.0
            value = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * 0.05 * deep
            self.w[name.replace(".", "/")] = torch.nn.Parameter(value)
        angle = torch.outer(torch.arange(256.0), 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD))
        self.register_buffer("cos", torch.cos(angle).repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.sin(angle).repeat(1, 2), persistent=False)

    def forward(self, ids: torch.Tensor, bits: int = 0) -> torch.Tensor:
        def weight(name: str) -> torch.Tensor:
            w = self.w[name.replace(".", "/")]
            if not bits or w.ndim == 1:
                return w
            if bits == TERNARY:
                return round_weights(w, 8) if name == "model.embed_tokens" else round_ternary(w)
            return round_weights(w, bits)

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            return (round_acts(x) if bits == TERNARY else x) @ weight(name).T

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight(name)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            a, b = x.chunk(2, -1)
            n = x.shape[-2]
            return x * self.cos[:n] + torch.cat([-b, a], -1) * self.sin[:n]

        batch, n = ids.shape
        x = F.embedding(ids, self.w["model/embed_tokens"])
        for i in range(LAYERS):
            p = f"model.layers.{i}."
            h = norm(x, p + "input_layernorm")
            q, k, v = (linear(h, f"{p}self_attn.{c}_proj").view(batch, n, -1, HEAD).transpose(1, 2) for c in "qkv")
            k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (rotate(k), v))
            a = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
            x = x + linear(a.transpose(1, 2).reshape(batch, n, -1), p + "self_attn.o_proj")
            h = norm(x, p + "post_attention_layernorm")
            g = F.silu(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj")
            x = x + linear(g, p + "mlp.down_proj")
        return linear(norm(x, "model.norm"), "model.embed_tokens")

    @torch.no_grad()
    def settle(self) -> None:
        """Replace the matrices of the layers by what they are rounded to: those of a ternary model."""
        for name, w in self.w.items():
            if w.ndim == 2 and "embed" not in name:
                scale = w.abs().mean()
                w.copy_((w / scale).round().clamp(-1, 1) * scale)


@torch.no_grad()
def held_out_loss(model: Llama, ids: torch.Tensor, bits: int) -> float:
    """Nats per token over consecutive windows of 256."""
    windows = ids[: (len(ids) - 1) // 256 * 256 + 1]
    x, y = windows[:-1].view(-1, 256), windows[1:].view(-1, 256)
    return F.cross_entropy(model(x, bits).flatten(0, 1), y.flatten()).item()


def save(model: Llama, tokenizer: Tokenizer, held: str, out: Path) -> None:
    tensors = {k.replace("/", ".") + ".weight": v.detach().contiguous() for k, v in model.w.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (out / "heldout.txt").write_text(held[:30000])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("novels", type=Path, help="folder that holds the unpacked Debian package")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="windows of 256 tokens a step")
    parser.add_argument("--ternary", action="store_true", help="matrices of -s, 0, s throughout; 8-bit activations")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    text, held = read_novels(args.novels)
    tokenizer = make_tokenizer(text)
    ids = torch.tensor(tokenizer.encode(text).ids)
    held_ids = torch.tensor(tokenizer.encode(held).ids)
    model = Llama()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(ids)} training tokens, "
          f"{len(held_ids) / len(held):.3f} tokens per character")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05},
                                   {"params": gains, "weight_decay": 0.0}], betas=(0.9, 0.98))
    start = time.time()
    for step in range(args.steps):
        done = step / args.steps
        rate = 4e-3 * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        begin = torch.randint(len(ids) - 257, (args.batch,))
        batch = torch.stack([ids[b : b + 257] for b in begin])
        logits = model(batch[:, :-1], bits=TERNARY if args.ternary else 4 if done > 0.7 else 0)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:5}/{args.steps}  loss {loss.item():.4f}  {time.time() - start:.0f} s",
                  flush=True)
    per_character = len(held_ids) / len(held) / math.log(2)
    for bits in (TERNARY,) if args.ternary else (0, 4, 3):
        nats = held_out_loss(model, held_ids, bits)
        print(f"held out, {NAMES.get(bits, str(bits))}: {nats:.4f} nats per token, "
              f"{nats * per_character:.3f} bits per character")
    if args.ternary:
        model.settle()
        nats = held_out_loss(model, held_ids, 0)
        print(f"held out, ternary matrices, float activations and head: {nats:.4f} nats per token, "
              f"{nats * per_character:.3f} bits per character")
    save(model, tokenizer, held, args.out)
    prompt = tokenizer.encode("It was a truth").ids
    generator = np.random.default_rng(0)
    for _ in range(120):
        p = torch.softmax(model(torch.tensor([prompt[-256:]]))[0, -1] / 0.7, -1).detach().double().numpy()
        prompt.append(int(generator.choice(len(p), p=p / p.sum())))
    print(tokenizer.decode(prompt))


if __name__ == "__main__":
    main()
