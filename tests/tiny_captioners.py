"""Tiny captioners with random weights and real tokenizers, saved as transformers saves the published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

SENTENCES = [
    "a photo of a small cat on a chair",
    "Describe in detail what is shown in the image.",
    "What does the image describe? Describe with a paragraph what is shown in the image.",
]
BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"


def write_blip2(folder: Path, *, language: str = "opt", image_token: bool = True, seed: int = 0) -> Path:
    """A BLIP-2; without `image_token` as it was published before transformers 4.46."""
    tokenizer = _byte_tokenizer(["</s>", "$A"] if language == "opt" else ["$A", "</s>"])
    own = len(tokenizer)
    if language == "opt":
        text = OPTConfig(
            vocab_size=own,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=2,
            eos_token_id=2,
            pad_token_id=1,
            init_std=0.2,
        )
    else:
        text = T5Config(
            vocab_size=own + 8,  # Flan-T5 too has more rows than tokens
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=1,
            pad_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Blip2Config(
        vision_config={**vision, "image_size": 28, "patch_size": 14, "initializer_range": 0.2},
        qformer_config={
            **vision,
            "encoder_hidden_size": 32,
            "cross_attention_frequency": 2,
            "initializer_range": 0.2,
        },
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=own if image_token else None,
    )
    model = _random(Blip2ForConditionalGeneration, config, seed)
    if image_token and language == "opt":
        with torch.no_grad():
            rows = [model.get_input_embeddings(), model.get_output_embeddings()]
            model.resize_token_embeddings(own + 1, mean_resizing=False)
            rows = [model.get_input_embeddings(), model.get_output_embeddings()]
            for row in rows:
                row.weight[own:] = 0
    pictures = BlipImageProcessor(size={"height": 28, "width": 28})
    if image_token:
        Blip2Processor(pictures, tokenizer, num_query_tokens=4).save_pretrained(folder)
    else:
        pictures.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_florence2(folder: Path, seed: int = 0) -> Path:
    """A Florence-2 in the layout of florence-community."""
    tokenizer = _byte_tokenizer(["<s>", "$A", "</s>"], image_token="<image>")
    config = Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 4,
            "projection_dim": 32,
            "model_type": "florence_vision",
        },
        text_config=BartConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=512,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_bos_token_id=0,
            forced_eos_token_id=2,
            init_std=0.2,
        ).to_dict(),
        image_token_id=tokenizer.image_token_id,
    )
    pictures = CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, resample=3, image_seq_length=17
    )
    pictures.image_seq_length = 17
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    _random(Florence2ForConditionalGeneration, config, seed).save_pretrained(folder)
    return folder


def write_blip(folder: Path, seed: int = 0) -> Path:
    """A BLIP for captions, with a WordPiece tokenizer as the published ones."""
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().strip(".?").split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "image.", ".", "?"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    tokenizer = BertTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BlipConfig(
        text_config={
            **sizes,
            "vocab_size": len(tokens) + 2,  # [DEC] and [ENC], which the tokenizer does not have
            "encoder_hidden_size": 32,
            "bos_token_id": len(tokens),
            "eos_token_id": 2,
            "sep_token_id": 3,
            "pad_token_id": 0,
            "initializer_range": 0.2,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16, "initializer_range": 0.2},
        projection_dim=32,
        image_text_hidden_size=32,
    )
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    _random(BlipForConditionalGeneration, config, seed).save_pretrained(folder)
    return folder


def _byte_tokenizer(template: list[str], **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as of OPT and BART, trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[BOS, PAD, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    ids = {BOS: 0, EOS: 2}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(template), special_tokens=[(token, ids[token]) for token in template if token in ids]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS if template[0] == EOS else BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        extra_special_tokens=named,
    )


def _random(kind, config, seed):
    """A model of random weights, large enough for what it sees to decide what it says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim >= 2 or "query_tokens" in name:
                    parameter.normal_(std=0.3)
    return model
