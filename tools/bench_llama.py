"""graphc on lavapipe beside llama.cpp on the same CPU; see tools/bench-llama."""

import json
import os
import pathlib
import subprocess
import sys
import time

from reference_llama import Model, ids_of, llama, open_context, open_model, quiet

TEXT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "texts" / "harbour.txt"
# Tokens of a chunk of a prompt, and the last prompt token, which starts the answer.
PROMPT = 129
ANSWER = 32


def prompt(vocab):
    """The beginning of a text, of about PROMPT tokens."""
    words = TEXT.read_text().split(" ")
    count = 1
    while len(ids_of(vocab, " ".join(words[:count + 1]), True)) <= PROMPT:
        count += 1
    return " ".join(words[:count])


def peer(model, ids):
    """Tokens a second of the prompt and of the answer."""
    context = open_context(model, 512)
    start = time.perf_counter()
    context.decode(llama.llama_batch_get_one(ids, 0))
    token = max(enumerate(context.get_logits_ith(-1)), key=lambda one: one[1])[0]
    middle = time.perf_counter()
    spent = 0.0
    for position in range(len(ids), len(ids) + ANSWER):
        begun = time.perf_counter()
        context.decode(llama.llama_batch_get_one([token], position))
        logits = context.get_logits_ith(-1)
        spent += time.perf_counter() - begun
        # Choosing in Python is not what is compared.
        token = max(enumerate(logits), key=lambda one: one[1])[0]
    return len(ids) / (middle - start), ANSWER / spent


def graphc(binary, device, folder, text):
    """The same of graphc."""
    command = [
        binary, "generate", "--model", folder, "--device", device, "--raw", "--json", "-n", str(ANSWER), "--prompt", text,
    ]
    made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return made["prompt_tokens_per_second"], made["tokens_per_second"]


def main():
    binary, device = sys.argv[1:3]
    quiet()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| what | graphc on lavapipe | llama.cpp | ratio |")
    print("|---|---|---|---|")
    for argument in sys.argv[3:]:
        name, _, folder = argument.partition("=")
        model: Model = open_model(next(pathlib.Path(folder).glob("*.gguf")))
        text = prompt(model.get_vocab())
        ids = ids_of(model.get_vocab(), text, True)
        peer(model, ids)
        theirs = peer(model, ids)
        ours = graphc(binary, device, folder, text)
        for what, mine, other in zip((f"prompt of {len(ids)} tokens", f"{ANSWER} tokens after it"), ours, theirs):
            print(f"| {name}, {what} | {mine:.1f} tok/s | {other:.1f} tok/s | {other / mine:.1f} |", flush=True)


if __name__ == "__main__":
    main()
