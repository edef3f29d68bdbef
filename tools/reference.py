#!/usr/bin/env python3
"""Writes the goldens of tests/reference: what other implementations compute for the same checkpoints and inputs.

    python3 -m venv VENV && VENV/bin/pip install torch transformers sentence-transformers
    VENV/bin/python tools/reference.py checkpoints
    VENV/bin/python tools/reference.py decoders
    VENV/bin/python tools/reference.py minilm DIR      # DIR: all-MiniLM-L6-v2 in Hugging Face layout

`checkpoints`: nomic_bert.json and modernbert.json. The models are tiny and random, built by `transformers` from its
own configuration classes and run by its own code on the CPU in f32; the checkpoint goes through a safetensors file
and `from_pretrained`, so the names are those of published checkpoints. No weight is stored: element i of a tensor is
a hash of the tensor's name and i (see `uniform`), which tests recompute.

`decoders`: tiny_llama.json, tiny_gemma3.json and tiny_qwen3.json, made alike; the models run in f64 and the goldens
hold logits at positions before and behind the sliding window and on both sides of chunk borders, as base64 of f32.

`minilm`: minilm.json, the embeddings that sentence-transformers gives for inputs in many languages and lengths.
Vectors are stored as base64 of little-endian f16; rounding a unit vector to f16 moves its direction by a cosine of
less than 1e-6 (checked when writing).
"""

import argparse
import base64
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "reference"
MASK = 2**64 - 1


def uniform(name: str, count: int) -> np.ndarray:
    """`count` numbers in [-1, 1): SplitMix64 started at the FNV-1a hash of `name`, the top 24 bits of each output."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """Matrices have variance 1 / columns, norm weights lie around 1, biases around 0. Rounded once, to f32."""
    u = uniform(name, int(np.prod(shape)))
    if len(shape) == 2:
        u = u * np.sqrt(3.0 / shape[1])
    elif name.endswith(".weight"):
        u = 1.0 + u / 4.0
    else:
        u = u / 4.0
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def tokenizer(words: int) -> dict:
    """A tokenizer of whole words `w0`, `w1`, ..; `tokenizers` reads it as tokenizer.json."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {token: i for i, token in enumerate(special + [f"w{i}" for i in range(words)])}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **added} for i, token in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep],
            "pair": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }


WORDS, D_MODEL, HEADS, D_FF, LAYERS, POSITIONS = 92, 64, 2, 96, 4, 128
VOCAB = WORDS + 4


def nomic_bert() -> tuple:
    from transformers import NomicBertConfig, NomicBertModel

    config = NomicBertConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=D_FF,
        max_position_embeddings=POSITIONS,
    )
    tensors = {
        "embeddings.word_embeddings.weight": [VOCAB, D_MODEL],
        "embeddings.token_type_embeddings.weight": [2, D_MODEL],
        "emb_ln.weight": [D_MODEL],
        "emb_ln.bias": [D_MODEL],
    }
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}"
        tensors |= {
            f"{at}.attn.Wqkv.weight": [3 * D_MODEL, D_MODEL],
            f"{at}.attn.out_proj.weight": [D_MODEL, D_MODEL],
            f"{at}.norm1.weight": [D_MODEL],
            f"{at}.norm1.bias": [D_MODEL],
            f"{at}.mlp.fc11.weight": [D_FF, D_MODEL],
            f"{at}.mlp.fc12.weight": [D_FF, D_MODEL],
            f"{at}.mlp.fc2.weight": [D_MODEL, D_FF],
            f"{at}.norm2.weight": [D_MODEL],
            f"{at}.norm2.bias": [D_MODEL],
        }
    return NomicBertModel, config, tensors, {"add_pooling_layer": False}


def modernbert() -> tuple:
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=D_FF,
        max_position_embeddings=POSITIONS,
        local_attention=16,
        global_attn_every_n_layers=3,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    tensors = {
        "embeddings.tok_embeddings.weight": [VOCAB, D_MODEL],
        "embeddings.norm.weight": [D_MODEL],
        "final_norm.weight": [D_MODEL],
    }
    for layer in range(LAYERS):
        at = f"layers.{layer}"
        if layer > 0:
            tensors[f"{at}.attn_norm.weight"] = [D_MODEL]
        tensors |= {
            f"{at}.attn.Wqkv.weight": [3 * D_MODEL, D_MODEL],
            f"{at}.attn.Wo.weight": [D_MODEL, D_MODEL],
            f"{at}.mlp_norm.weight": [D_MODEL],
            f"{at}.mlp.Wi.weight": [2 * D_FF, D_MODEL],
            f"{at}.mlp.Wo.weight": [D_MODEL, D_FF],
        }
    return ModernBertModel, config, tensors, {}


KV_HEADS, HEAD_DIM, WINDOW = 2, 32, 16
DECODER_HEADS = 4


def decoder_tensors(layers: int, norms: list[str], head_norms: bool, tied: bool) -> dict:
    tensors = {"model.embed_tokens.weight": [VOCAB, D_MODEL], "model.norm.weight": [D_MODEL]}
    if not tied:
        tensors["lm_head.weight"] = [VOCAB, D_MODEL]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": [DECODER_HEADS * HEAD_DIM, D_MODEL],
            f"{at}.self_attn.k_proj.weight": [KV_HEADS * HEAD_DIM, D_MODEL],
            f"{at}.self_attn.v_proj.weight": [KV_HEADS * HEAD_DIM, D_MODEL],
            f"{at}.self_attn.o_proj.weight": [D_MODEL, DECODER_HEADS * HEAD_DIM],
            f"{at}.mlp.gate_proj.weight": [D_FF, D_MODEL],
            f"{at}.mlp.up_proj.weight": [D_FF, D_MODEL],
            f"{at}.mlp.down_proj.weight": [D_MODEL, D_FF],
        }
        tensors |= {f"{at}.{norm}.weight": [D_MODEL] for norm in norms}
        if head_norms:
            tensors |= {f"{at}.self_attn.{norm}.weight": [HEAD_DIM] for norm in ("q_norm", "k_norm")}
    return tensors


def decoder_config(layers: int) -> dict:
    return {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "num_hidden_layers": layers,
        "num_attention_heads": DECODER_HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": D_FF,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }


def llama() -> tuple:
    from transformers import LlamaConfig, LlamaForCausalLM

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = LlamaConfig(**decoder_config(3), rope_parameters=scaling, tie_word_embeddings=False)
    return LlamaForCausalLM, config, decoder_tensors(3, ["input_layernorm", "post_attention_layernorm"], False, False)


def qwen3() -> tuple:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**decoder_config(3), tie_word_embeddings=True)
    return Qwen3ForCausalLM, config, decoder_tensors(3, ["input_layernorm", "post_attention_layernorm"], True, True)


def gemma3() -> tuple:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    # Seven layers: five with a window, a global one, one more with a window.
    config = Gemma3TextConfig(
        **decoder_config(7),
        sliding_window=WINDOW,
        query_pre_attn_scalar=24,
        tie_word_embeddings=True,
    )
    norms = [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ]
    return Gemma3ForCausalLM, config, decoder_tensors(7, norms, True, True)


def decoder_golden(make) -> dict:
    from safetensors.torch import save_file

    model_class, config, tensors = make()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        weights = {name: weight(name, shape) for name, shape in tensors.items()}
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
        stored = json.loads(pathlib.Path(folder, "config.json").read_text())
        model, info = model_class.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float64, attn_implementation="eager"
        )
    problems = {key: value for key, value in info.items() if value}
    if problems:
        sys.exit(f"{model_class.__name__} did not take the checkpoint as it is: {problems}")
    model.eval()
    ids = ((uniform("tokens", 80) + 1.0) / 2.0 * VOCAB).astype(int).tolist()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    positions = [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 31, 32, 33, 63, 64, 79]
    stored.pop("transformers_version", None)
    return {
        "made_with": versions(),
        "config": stored,
        "tensors": tensors,
        "ids": ids,
        "logits": {str(position): floats(logits[position], "<f4") for position in positions},
    }


def random_texts() -> list[str]:
    """Lengths around the edges of tiles and of ModernBERT's window, one unknown word, the empty text."""
    lengths = [0, 1, 2, 6, 15, 31, 40, 77, 126]
    picks = iter(((uniform("texts", sum(lengths)) + 1.0) / 2.0 * WORDS).astype(int))
    texts = [" ".join(f"w{next(picks)}" for _ in range(length)) for length in lengths]
    texts[3] = texts[3].replace(" ", " unknown ", 1)
    return texts


def checkpoint_golden(make) -> dict:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    model_class, config, tensors, extra = make()
    words = tokenizer(WORDS)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        weights = {name: weight(name, shape) for name, shape in tensors.items()}
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
        stored = json.loads(pathlib.Path(folder, "config.json").read_text())
        model, info = model_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float32, **extra)
    problems = {key: value for key, value in info.items() if value}
    if problems:
        sys.exit(f"{model_class.__name__} did not take the checkpoint as it is: {problems}")
    model.eval()
    encode = Tokenizer.from_str(json.dumps(words)).encode
    inputs = []
    for text in random_texts():
        ids = encode(text).ids
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
        pooled = hidden.double().mean(dim=0)
        inputs.append({"text": text, "ids": ids, "embedding": floats(pooled / pooled.norm(), "<f4")})
    stored.pop("transformers_version", None)
    return {"made_with": versions(), "config": stored, "tokenizer": words, "tensors": tensors, "inputs": inputs}


def floats(vector, dtype: str) -> str:
    return base64.b64encode(np.asarray(vector).astype(dtype).tobytes()).decode()


def versions() -> dict:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def write(name: str, golden: dict) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / name
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    # One line for each list of numbers, one for each input.
    path.write_text(compact(text) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


def compact(text: str) -> str:
    import re

    return re.sub(r"\[\s+((?:-?[\d.]+,?\s+)+)\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)


ENGLISH = (
    "The harbour master wrote down every ship that came in before the storm, its flag, its cargo and the hour, "
    "and in the evening he read the list aloud to his daughter, who knew most of the captains by name. "
)

MINILM_TEXTS = [
    "",
    " ",
    "a",
    ".",
    "Hello",
    "hello",
    "HELLO WORLD!!!",
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leapt across a sleepy hound.",
    "Interest rates rose by a quarter of a percent on Thursday.",
    "How do I reset my password?",
    "I forgot the code that opens my account.",
    "It isn't, wasn't and won't be; they're 'quoted' \"twice\".",
    "3.14159265358979 1,000,000 -40°C 50% 2026-11-21T05:30:00Z",
    "user.name+tag@example.org https://example.org/a/b?c=d&e=f#g",
    "C:\\Windows\\System32 /usr/local/bin ~/.config",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "ein Satz auf Deutsch mit Umlauten: schöne Grüße aus Köln, Straße und Fußgänger",
    "Où est la bibliothèque ? Elle est fermée jusqu'à mardi, hélas.",
    "¿Dónde está el niño? ¡Mañana volverá con su abuela!",
    "Il gatto dorme sul davanzale mentre fuori piove a dirotto.",
    "O rio corre devagar sob a ponte de pedra antiga.",
    "De trein naar Utrecht vertrekt vandaag van spoor vijf.",
    "Zażółć gęślą jaźń, a potem odpocznij.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Tiếng Việt có nhiều dấu thanh khác nhau.",
    "Ağaçların arasında küçük bir ışık yanıyordu.",
    "Στην ακρογιαλιά οι βάρκες περιμένουν τον άνεμο.",
    "Завтра утром мы поедем на дачу, если не будет дождя.",
    "מחר בבוקר ניסע אל הים אם לא ירד גשם.",
    "غدا صباحا سنذهب إلى البحر إذا لم تمطر.",
    "कल सुबह हम समुद्र देखने जाएँगे अगर बारिश नहीं हुई।",
    "พรุ่งนี้เช้าเราจะไปทะเลถ้าฝนไม่ตก",
    "明天早上如果不下雨，我们就去海边。",
    "明日の朝、雨が降らなければ海へ行きます。",
    "내일 아침 비가 오지 않으면 바다에 갈 거예요.",
    "ქართული ანბანი ოცდაცამეტი ასოსგან შედგება.",
    "😀 😂 🚀 ❤️ 👩‍👩‍👧‍👦 🏳️‍🌈",
    "Great job 👍🏽 see you at 8 🍕!",
    "fn main() { println!(\"{}\", (1..=10).map(|n| n * n).sum::<u64>()); }",
    "SELECT name, COUNT(*) FROM orders WHERE total >= 100 GROUP BY name ORDER BY 2 DESC;",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "#include <stdio.h>\nint main(void) { return 0; }",
    "{\"key\": [1, 2, {\"nested\": null}], \"ok\": true}",
    "<div class=\"card\"><p>Text &amp; more</p></div>",
    "\\int_0^\\infty e^{-x^2} dx = \\frac{\\sqrt{\\pi}}{2}",
    "tabs\tand\nnew lines\r\nand  many   spaces",
    "e\u0301 is \u00e9, and \ufb01 is a ligature; zero\u200bwidth, soft\u00adhyphen",
    "[CLS] tokens [SEP] in [MASK] the text [PAD]",
    "no no no no no no no no no no no no no no no no",
    "Protein folding is driven by hydrophobic collapse and hydrogen bonds.",
]

# Longer ones: a text, repeated. The last ones are cut at 256 tokens.
MINILM_REPEATED = [
    (ENGLISH, 1),
    (ENGLISH, 2),
    ("Rain fell on the tin roof all night. ", 12),
    ("alpha beta gamma delta ", 30),
    ("naïve café façade 東京 ", 20),
    (ENGLISH, 6),
    ("x = x + 1; ", 60),
    (ENGLISH, 15),
]


def minilm_golden(folder: str) -> dict:
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    entries = [{"text": text} for text in MINILM_TEXTS]
    entries += [{"text": text, "times": times} for text, times in MINILM_REPEATED]
    texts = [entry["text"] * entry.get("times", 1) for entry in entries]
    # One at a time, so that no padding takes part.
    vectors = np.stack([model.encode([text], convert_to_numpy=True)[0] for text in texts]).astype(np.float64)
    stored = vectors.astype("<f2").astype(np.float64)
    cosine = (stored * vectors).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(vectors, axis=1)
    if cosine.min() < 1 - 1e-6:
        sys.exit(f"f16 is too coarse: cosine {cosine.min()}")
    print(f"{len(texts)} inputs, stored with cosine >= 1 - {1 - cosine.min():.1e}")
    for entry, text, vector in zip(entries, texts, vectors):
        entry["tokens"] = int(model.preprocess([text])["input_ids"].shape[1])
        entry["embedding"] = floats(vector, "<f2")
    return {
        "made_with": versions() | {"sentence-transformers": sentence_transformers.__version__},
        "max_tokens": model.max_seq_length,
        "inputs": entries,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("checkpoints", help="nomic_bert.json and modernbert.json")
    commands.add_parser("decoders", help="tiny_llama.json, tiny_gemma3.json and tiny_qwen3.json")
    minilm = commands.add_parser("minilm", help="minilm.json")
    minilm.add_argument("dir", help="all-MiniLM-L6-v2 in Hugging Face layout")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.command == "minilm":
        write("minilm.json", minilm_golden(args.dir))
    elif args.command == "decoders":
        for make in (llama, gemma3, qwen3):
            write(f"tiny_{make.__name__}.json", decoder_golden(make))
    else:
        write("nomic_bert.json", checkpoint_golden(nomic_bert))
        write("modernbert.json", checkpoint_golden(modernbert))


if __name__ == "__main__":
    main()
