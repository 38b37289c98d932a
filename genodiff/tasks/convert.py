"""Turn published weights into a model folder, and a model into a published layout.

usage: genodiff convert source=PATH out=DIR [key=value ...]

example:
  genodiff convert source=caduceus-ps_seqlen-1k_d_model-256_n_layer-4_lr-8e-3 out=caduceus_ps

keys:
  source=PATH         a folder with config.json beside model.safetensors or pytorch_model.bin (as
                      the Hugging Face hub has it), a Lightning checkpoint of Caduceus (its
                      config.json or model_config.json beside it) or of MDLM, or a genodiff model.
                      Networks: Caduceus (Ph, PS, left to right), of MDLM the DiT, the
                      autoregressive transformer and DiMamba, and the masked language models of
                      transformers (BERT, RoBERTa, ESM, ...). No code of theirs is run
  out=DIR             a new folder; it appears whole or not at all
  layout=genodiff     a model folder, for checkpoint= and train init=; or, to give a model away,
                      caduceus or mdlm: config.json and model.safetensors as these publish them
  ema=true|false      the averaged or the last weights of a checkpoint that has both; averaged if
                      left out
  mask_id=            of an MDLM or a BERT, where its settings do not say it: 103 for
                      bert-base-uncased, 4 for text8; of an MDLM the last id if left out
  tokenizer=NAME      of an MDLM or a BERT of text: a folder with its files, a name of the Hugging
                      Face hub (gpt2, bert-base-uncased), text8 or bytes; it goes into the model
                      folder. Left out, sequences are bare ids
  overwrite=true      replace what an earlier convert wrote
  seed= device=       taken as everywhere; a conversion draws nothing and needs no device

Then: genodiff train init=DIR backbone=trained data=fasta data.fasta=FILE data.bed=FILE out=RUN
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from genodiff import __version__
from genodiff.data import load_tokenizer
from genodiff.errors import UserError
from genodiff.files import atomic_folder, write_text
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, save_model
from genodiff.tasks.published import read_model
from genodiff.tasks.publishing import write_caduceus, write_mdlm

log = logging.getLogger(__name__)

Layout = Literal["genodiff", "caduceus", "mdlm"]
WRITERS: dict[Layout, Callable[[Model, Path], None]] = {
    "genodiff": save_model,
    "caduceus": write_caduceus,
    "mdlm": write_mdlm,
}


def main(
    *,
    source: str,
    out: str,
    layout: Layout,
    ema: bool | None,
    mask_id: int | None,
    tokenizer: str | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> None:
    """Converts; a conversion draws nothing and needs no device."""
    convert(
        Path(source),
        Path(out),
        layout,
        ema=ema,
        mask_id=mask_id,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )


def convert(
    source: Path,
    out: Path,
    layout: Layout = "genodiff",
    *,
    ema: bool | None = None,
    mask_id: int | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
) -> None:
    """Reads the model at `source` (see `read_model`) and writes it into the new folder `out`, with
    the `tokenizer` of that name (see `load_tokenizer`).

    Raises UserError if one of them cannot be read, has no place in the layout, or `out` is not
    free.
    """
    if out.resolve() == source.resolve():
        raise UserError(f"out={out} is source=; give another folder.")
    with atomic_folder(out, overwrite=overwrite) as folder:
        text = None if tokenizer is None else load_tokenizer(tokenizer)
        WRITERS[layout](read_model(source, ema=ema, mask_id=mask_id, tokenizer=text), folder)
        manifest = {
            "version": __version__,
            **{"source": str(source), "layout": layout, "ema": ema, "mask_id": mask_id},
            "tokenizer": tokenizer,
        }
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    log.info("Written: %s (layout %s).", out, layout)


if __name__ == "__main__":
    launch("convert", main)
