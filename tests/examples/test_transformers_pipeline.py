"""The pipeline with transformers, on tiny models that are made here: their answers are nonsense, their form is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.free_port import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = sorted((ROOT / "examples/pipeline/documents").glob("*.txt"))

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train(
        [str(path) for path in DOCUMENTS], trainers.WordPieceTrainer(vocab_size=500, special_tokens=special)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    ).save_pretrained(folder)
    return folder


def save_with_tokenizer(model: object, tokenizer_folder: Path, folder: Path) -> Path:
    from transformers import AutoTokenizer, PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentiment_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    labels = {0: "1 star", 1: "5 stars"}
    config = BertConfig(
        vocab_size=500,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    model = BertForSequenceClassification(config)
    return save_with_tokenizer(model, tokenizer_folder, tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="module")
def summary_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=500,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=3,
    )
    model = BartForConditionalGeneration(config)
    return save_with_tokenizer(model, tokenizer_folder, tmp_path_factory.mktemp("summary"))


@pytest.mark.timeout(300)
def test_the_demo_serves_models_of_transformers(
    tokenizer_folder: Path, sentiment_folder: Path, summary_folder: Path
) -> None:
    command = [sys.executable, "-m", "examples.pipeline.demo", "--exit", "--port", str(free_port())]
    command += ["--models", "transformers", "--tokenizer-model", str(tokenizer_folder)]
    command += ["--sentiment-model", str(sentiment_folder), "--summary-model", str(summary_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sentiment") >= len(DOCUMENTS)
    assert "star" in done.stdout
