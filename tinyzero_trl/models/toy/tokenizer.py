"""The embedded model's tokenizer: whole integers, whole template sentences, and bytes for everything else.

A prompt of the `base` template is about a dozen tokens: each fixed sentence of a task's template is one token, each
integer up to `LARGEST_WHOLE_INTEGER` another. Single bytes underneath keep any other text representable.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinyzero_trl.models.toy.traces import LARGEST_INTERMEDIATE
from tinyzero_trl.tasks import countdown, counting, multiplication, prompts

LARGEST_WHOLE_INTEGER = LARGEST_INTERMEDIATE
_TASKS = {"countdown": countdown, "multiplication": multiplication, "counting": counting}
END, PAD = "<|endoftext|>", "<|pad|>"
_MARKS = (", ", ": ", "< ", "> ", "<\n", ">\n")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(tasks: Sequence[str] = ("countdown", "multiplication")) -> PreTrainedTokenizerFast:
    """A new tokenizer, the same on every call: nothing is learned from data.

    Whatever is longer than a byte is an added token and no merge: `AutoTokenizer` reads the vocabulary of a Qwen2 with
    that architecture's own way of splitting text, which takes integers apart but leaves added tokens alone.

    Args:
        tasks: Those whose sentences are one token each.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    integers = [str(number) for number in range(10, LARGEST_WHOLE_INTEGER + 1)]
    segments = [segment for task in tasks for segment in prompts.segments("base", _TASKS[task].QUESTION)]
    # dict.fromkeys: two tasks may share a sentence
    pieces = dict.fromkeys((*integers, *_MARKS, *(text for text in segments if len(text) > 1), *_TAGS))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
