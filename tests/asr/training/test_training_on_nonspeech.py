"""What training beside sounds without speech is for."""

import pytest
import torch

from asr.data.batches import SpeechDataset, collate
from asr.data.manifest import read_manifest
from asr.data.nonspeech import NonSpeech
from asr.data.tokenizer import Tokenizer
from asr.decoding.greedy import greedy
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig
from asr.training.losses import training_loss

STEPS = 100


def trained(dataset: SpeechDataset, clips_a_step: int) -> Model:
    """A tiny model that has learnt two utterances by heart, beside so many clips in every step."""
    torch.manual_seed(0)
    frontend = FrontendConfig(mels=20, speeds=(1.0,), frequency_masks=0, time_masks=0)
    encoder = EncoderConfig(dim=32, layers=1, heads=2, kernel=3, dropout=0.0)
    model = Model(ModelConfig("mala", encoder=encoder, frontend=frontend), dataset.tokenizer.pieces).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, STEPS)
    for step in range(STEPS):
        clips = range(2 + step * clips_a_step, 2 + (step + 1) * clips_a_step)
        loss = training_loss(model, collate([dataset[i] for i in (0, 1, *clips)]), TrainingConfig()).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def said(model: Model, dataset: SpeechDataset, index: int) -> str:
    batch = collate([dataset[index]])
    log_probs, lengths = model(batch.waveforms, batch.lengths)
    return dataset.tokenizer.decode(greedy(log_probs, lengths)[0])


@pytest.mark.parametrize("clips_a_step", [0, 2], ids=["speech alone", "with clips"])
def test_a_model_says_nothing_to_sounds_without_speech_where_it_was_trained_beside_some(clips_a_step, corpus):
    utterances = sorted(read_manifest(corpus / "train.jsonl"), key=lambda item: item.duration)[:2]
    clips = NonSpeech([item.duration for item in utterances], 0.5, seed=1)
    dataset = SpeechDataset(utterances, Tokenizer.load(corpus / "tokenizer.model"), clips)
    model = trained(dataset, clips_a_step)
    for index, utterance in enumerate(utterances):
        assert said(model, dataset, index).replace(" ", "") == utterance.text.replace(" ", "")
    unheard = range(2 + 5000, 2 + 5024)
    talking = sum(said(model, dataset, index) != "" for index in unheard)
    assert talking <= 1 if clips_a_step else talking >= 12
