"""Summaries of documents that are longer than a model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aurora_pool.arguments import check_each_instance, check_many, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.messages import Prompt, Sampling
from aurora_pool.patterns.documents import Document
from aurora_pool.patterns.reduce import (
    DEFAULT_FANIN,
    Clean,
    check_answers,
    context_budget,
    merging,
    reduce_budget,
    reduce_leaves,
)
from aurora_pool.patterns.templates import render
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.patterns.tree import OnLevel, ReduceCall, ReduceResult, ReduceTree
from aurora_pool.progress import OnCallProgress, ProgressReport
from aurora_pool.prompts.chunking import chunk_text

__all__ = ["summarize"]

DEFAULT_CHUNK_TOKENS = 2000
DEFAULT_OVERLAP = 50

PROMPT = """\
Below is part {part} of {parts} of "{name}". Summarise it. Keep facts, names, numbers and conclusions; add nothing.

{item}

Summary:"""

REDUCE_PROMPT = """\
Below are summaries of consecutive parts of a longer text. Merge them into one summary. Keep what matters most, say \
nothing twice, and add nothing.

{responses}

Summary:"""


async def summarize(
    pool: TextPool,
    documents: Sequence[Document | str],
    *,
    prompt: str = PROMPT,
    reduce_prompt: str = REDUCE_PROMPT,
    chunk_tokens: int | None = None,
    overlap: int | None = None,
    fanin: int = DEFAULT_FANIN,
    max_tokens: int | None = None,
    reduce_max_tokens: int | None = None,
    clean: Clean | None = None,
    sampling: Sampling | None = None,
    on_level: OnLevel | None = None,
    on_progress: OnCallProgress | None = None,
    progress: bool = False,
) -> ReduceResult:
    """Summarise documents of any length into one text.

    ::

        summary = await summarize(pool, read_documents(["report.txt", "minutes.txt"]), max_tokens=200)

    Each document is cut into chunks of ``chunk_tokens`` tokens (by default 2,000, or what fits the model's context),
    of which neighbours share ``overlap`` tokens; each chunk is summarised with ``prompt``, in at most ``max_tokens``
    tokens, and the summaries are merged as in :func:`~aurora_pool.patterns.tree_reduce`. In ``prompt``, ``{item}`` is
    the chunk, ``{name}`` its document, and ``{part}`` of ``{parts}`` its place in it. The result names each chunk that
    is lost by document and part. ``reduce_max_tokens`` and ``clean`` are those of
    :func:`~aurora_pool.patterns.tree_reduce`, ``on_progress`` and ``progress`` of :meth:`VLLMPool.send_all_batched`.

    Raises :class:`~aurora_pool.errors.ConfigError` before anything is sent: no text in the documents, chunks that don't
    fit the context, and what :func:`~aurora_pool.patterns.tree_reduce` refuses.
    """
    check_many(documents=documents)
    check_each_instance("documents", documents, Document | str)
    check_answers(max_tokens, sampling, clean)
    check_whole(1, chunk_tokens=chunk_tokens)
    check_whole(0, overlap=overlap)
    prompt_budget = await context_budget(pool, "prompt", prompt, "item", max_tokens or pool.max_tokens_aggregation)
    budget = await reduce_budget(pool, reduce_prompt, reduce_max_tokens)
    if prompt_budget is not None and chunk_tokens is not None and chunk_tokens > prompt_budget.tokens:
        raise ConfigError(f"chunk_tokens is {chunk_tokens}, but the context has room for {prompt_budget.tokens} only")
    size = chunk_tokens or min(DEFAULT_CHUNK_TOKENS, prompt_budget.tokens if prompt_budget else DEFAULT_CHUNK_TOKENS)
    overlap = min(DEFAULT_OVERLAP, size // 4) if overlap is None else overlap

    prompts, names = [], []
    for number, document in enumerate(documents, 1):
        name, text = (f"text {number}", document) if isinstance(document, str) else (document.name, document.text)
        chunks = chunk_text(text, size, overlap, count=pool.estimate_tokens)
        for part, chunk in enumerate(chunks, 1):
            filled = render(prompt, item=chunk, name=name, part=part, parts=len(chunks))
            prompts.append(Prompt(filled, max_tokens=max_tokens))
            names.append(f"{name}, part {part} of {len(chunks)}")
    if not prompts:
        raise ConfigError("there is no text in the documents to summarise")
    tree = ReduceTree(len(prompts), fanin, budget=budget, names=names.__getitem__, on_level=on_level)
    merge: Callable[[None, ReduceCall], Prompt] = merging(pool, reduce_prompt, reduce_max_tokens)
    with ProgressReport(tree.calls_foreseen, on_progress=on_progress, progress=progress) as report:
        return await reduce_leaves(pool, tree, prompts, merge, sampling=sampling, clean=clean, report=report)
