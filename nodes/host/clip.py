"""CLIP: the text encoder as ComfyUI's own text model, so prompt weights, embeddings, LoRA and CLIP skip work.

The size of the encoder comes from our spec: a published ViT-H-14 or the small one of a bundled model, in the same
classes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor

from ...vc_core import bundled
from ...vc_core.checkpoint.building import Checkpoint, compare_shapes
from ...vc_core.checkpoint.finite import check_finite
from ...vc_core.checkpoint.foreign import some
from ...vc_core.checkpoint.reading import File
from ...vc_core.conditioning.tokenizer import checked_text
from ...vc_core.errors import UserError
from ...vc_core.specs import TextEncoderSpec
from . import files, towers
from .compat import fill, known
from .model import WEIGHT_DTYPES, remember
from .reading import open_file, read_mapped

log = logging.getLogger(__name__)

START, END, PAD = 49406, 49407, 0
HOST_MARK = "text_model.encoder.layers.0.layer_norm1.weight"
HEAD_WIDTH = 64
LARGEST_WEIGHT = 1e30
"""Of a token. Larger ones give infinite values in fp32."""
MATRIX = 2

Tokens = list[list[tuple[Any, ...]]]


def text_model(spec: TextEncoderSpec, name: str = "") -> comfy.supported_models_base.ClipTarget:
    """The classes from which ComfyUI builds the tokenizer and the encoder of this spec, for the model of this name."""

    class TextTransformer(comfy.sd1_clip.SDClipModel):
        """The penultimate layer's tokens after the final norm."""

        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None, **_: Any
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                layer="hidden",
                layer_idx=-2,
                textmodel_json_config=_config(spec),
                special_tokens={"start": START, "end": END, "pad": PAD},
                model_options=model_options or {},
                **known(comfy.sd1_clip.SDClipModel.__init__, return_projected_pooled=True),
            )

    class TextModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None, **more: Any
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                clip_name="h",
                clip_model=TextTransformer,
                **more,
            )

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            def words(embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> WordTokenizer:
                return WordTokenizer(spec, name, embedding_directory, tokenizer_data or {})

            super().__init__(embedding_directory, tokenizer_data or {}, clip_name="h", tokenizer=words)

    return comfy.supported_models_base.ClipTarget(Tokenizer, TextModel)


class WordTokenizer(comfy.sd1_clip.SDTokenizer):
    """One row of `context_length` tokens, padded with zeros, as in the training of the published models: a longer
    prompt is cut, with a warning, instead of continuing in further rows."""

    def __init__(
        self, spec: TextEncoderSpec, model: str, embedding_directory: Any, tokenizer_data: dict[str, Any]
    ) -> None:
        super().__init__(
            max_length=10**9,
            pad_with_end=False,
            pad_to_max_length=False,
            embedding_directory=embedding_directory,
            embedding_size=spec.width,
            embedding_key=towers.CLIP_NAME,
            tokenizer_data=tokenizer_data,
        )
        self.length, self.model = spec.context_length, model

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """As ComfyUI's: rows of (token or embedding, weight[, number of the word])."""
        text = checked_text(text)  # ComfyUI's tokenizer ends with a TypeError at half a character
        unknown = bundled.warning(self.model, text)
        if unknown:
            log.warning("%s", unknown)
        try:
            row: list[tuple[Any, ...]] = super().tokenize_with_weights(text, return_word_ids, **kwargs)[0]
        except RecursionError as error:
            raise UserError("The prompt has parentheses within parentheses too many times. Leave some out.") from error
        _check_weights(row)
        too_many = len(row) - self.length
        if too_many > 0:
            log.warning(
                "The prompt has %d tokens and the model reads %d: the last %d are cut, from %r on. Shorten the prompt.",
                len(row) - 2,
                self.length - 2,
                too_many,
                self._readable(row[self.length - 1 : self.length + 7]),
            )
            row = [*row[: self.length - 1], row[-1]]
        filler = (PAD, 1.0, 0) if return_word_ids else (PAD, 1.0)
        return [row + [filler] * (self.length - len(row))]

    def _try_get_embedding(self, embedding_name: str) -> Any:
        """As ComfyUI's, which fails where no name follows `embedding:`."""
        return super()._try_get_embedding(embedding_name) if embedding_name.strip() else (None, "", "")

    def _readable(self, row: list[tuple[Any, ...]]) -> str:
        return "".join(str(self.inv_vocab.get(item[0], "")) for item in row if isinstance(item[0], int)).replace(
            "</w>", " "
        )


def _check_weights(row: list[tuple[Any, ...]]) -> None:
    """Raises UserError for a weight of a token that would give NaN or infinite values."""
    for weight in {item[1] for item in row}:
        if not abs(weight) <= LARGEST_WEIGHT:
            raise UserError(
                f"The prompt has the weight {weight:g}, and a finite number is needed, usually 0.5 to 1.5. "
                "Change it, or write \\( and \\) for parentheses that are text."
            )


def load_clip(checkpoint: Checkpoint, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """CLIP of an opened file that has a text encoder."""
    tensors, spec = towers.text_to_host(checkpoint.weights("text_encoder")), checkpoint.spec
    return _assemble(spec.text_encoder, tensors, weight_dtype, disable_dynamic, spec.name)


def load_clip_file(path: Path, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """CLIP of a file: one of ours, OpenCLIP's, or one with the names that are usual in ComfyUI."""
    file = read_mapped(path)
    mark = next((name for name in file.tensors if name.endswith(HOST_MARK)), None)
    if mark is None:
        clip = load_clip(open_file(path), weight_dtype, disable_dynamic)
    else:
        spec, tensors = _from_host_names(file, mark.removesuffix(HOST_MARK))
        clip = _assemble(spec, tensors, weight_dtype, disable_dynamic)
    remember(clip.patcher, load_clip_patcher, (path, weight_dtype))
    return clip


def load_clip_patcher(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """The patcher alone, made again: ComfyUI calls this when it copies a model to another device."""
    return load_clip_file(path, weight_dtype, disable_dynamic).patcher


def _assemble(
    spec: TextEncoderSpec, tensors: dict[str, Tensor], weight_dtype: str, disable_dynamic: bool, name: str = ""
) -> Any:
    if spec.layers < 3:
        raise UserError(f"The text encoder has {spec.layers} layers; ComfyUI's text model needs at least 3.")
    _check(spec, tensors)
    dtype = WEIGHT_DTYPES[weight_dtype]
    clip = comfy.sd.CLIP(
        text_model(spec, name),
        embedding_directory=files.embedding_folders(),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        model_options={"dtype": dtype} if dtype in (torch.float32, torch.float16, torch.bfloat16) else {},
        **known(comfy.sd.CLIP.__init__, disable_dynamic=disable_dynamic),
    )
    fill(clip.cond_stage_model, tensors, clip.patcher)
    return clip


def _check(spec: TextEncoderSpec, tensors: dict[str, Tensor]) -> None:
    """Raise UserError when the tensors, by ComfyUI's names, are not those of this encoder."""
    difference = compare_shapes(towers.text_shapes(spec), tensors, towers.UNUSED_TEXT)
    if difference:
        left = [*difference.missing, *difference.unexpected, *difference.misshapen]
        raise UserError(
            f"The text encoder in this file is not complete, or not of the kind that VideoCrafter uses ({len(left)} "
            f"tensors do not fit: {some(left)}). Use the one of the model's own checkpoint, or an OpenCLIP ViT-H-14 "
            "file."
        )


def _from_host_names(file: File, prefix: str) -> tuple[TextEncoderSpec, dict[str, Tensor]]:
    tensors = {
        towers.TEXT + name.removeprefix(prefix): tensor
        for name, tensor in file.tensors.items()
        if name.startswith((prefix + "text_model.", prefix + "text_projection")) and not name.endswith("position_ids")
    }
    for name, tensor in tensors.items():
        check_finite(tensor, name)
    _check_embeddings(file, tensors)
    embedding = tensors[towers.TEXT_NAMES["token_embedding.weight"]]
    positions = tensors[towers.TEXT_NAMES["positional_embedding"]]
    layers = sum(name.endswith(".layer_norm1.weight") for name in tensors)
    published = TextEncoderSpec()
    if embedding.shape[1] != published.width or layers != published.layers:
        raise UserError(
            f"{file.path} is a text encoder of {layers} layers, {embedding.shape[1]} wide; VideoCrafter's is "
            f"OpenCLIP ViT-H-14: {published.layers} layers, {published.width} wide. Use that, or the one in the "
            "model's checkpoint."
        )
    width = int(embedding.shape[1])
    spec = TextEncoderSpec(
        width=width,
        heads=width // HEAD_WIDTH,
        layers=layers,
        context_length=int(positions.shape[0]),
        vocab_size=int(embedding.shape[0]),
    )
    return spec, tensors


def _check_embeddings(file: File, tensors: dict[str, Tensor]) -> None:
    """Raise UserError where the tensors that the sizes are read from are missing, or are no matrices."""
    for name in ("token_embedding.weight", "positional_embedding"):
        found = tensors.get(towers.TEXT_NAMES[name])
        if found is None or found.ndim != MATRIX:
            raise UserError(
                f"{file.path} is a text encoder without {name}, or not with the usual shape. The file is damaged: "
                "download it again."
            )


def _config(spec: TextEncoderSpec) -> dict[str, Any]:
    """The encoder as ComfyUI's configuration files describe it."""
    return {
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "max_position_embeddings": spec.context_length,
        "vocab_size": spec.vocab_size,
        "eos_token_id": END,
        "hidden_act": "gelu",
    }
