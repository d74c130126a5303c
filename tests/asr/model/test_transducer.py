import itertools
import math
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.attention import ATTENTIONS
from asr.decoding.label_looping import transducer_greedy
from asr.model.classes import BLANK
from asr.model.config import ModelConfig
from asr.model.conformer import Encoder
from asr.model.recogniser import make_heads
from asr.model.transducer import Transducer, TransducerConfig, lattice_loss

CONFIG = TransducerConfig(hidden=6, joint=5, dropout=0.0)
DIM, PIECES = 4, 7


def make(dtype=torch.float64, config=CONFIG) -> Transducer:
    torch.manual_seed(0)
    transducer = Transducer(DIM, PIECES, config).to(dtype)
    with torch.no_grad():
        for parameter in transducer.parameters():
            parameter *= 3  # away from uniform distributions
    return transducer


def make_batch(lengths, target_lengths, dtype=torch.float64):
    """Encoded frames and targets, with numbers beyond the lengths too."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), DIM, generator=generator, dtype=dtype)
    targets = torch.randint(1, PIECES + 1, (len(lengths), max(target_lengths)), generator=generator)
    return x, torch.tensor(lengths), targets, torch.tensor(target_lengths)


def plain_loss(log_probs, targets) -> torch.Tensor:
    """The dynamic programme, cell by cell (Graves, Eq. 16-18), of log-probabilities (T, U + 1, classes)."""
    frames, rows = log_probs.shape[:2]
    alpha = {(0, 0): log_probs.new_zeros(())}
    for t, u in itertools.product(range(frames), range(rows)):
        ways = []
        if t:
            ways.append(alpha[t - 1, u] + log_probs[t - 1, u, BLANK])
        if u:
            ways.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]])
        if ways:
            alpha[t, u] = torch.stack(ways).logsumexp(0)
    return -(alpha[frames - 1, rows - 1] + log_probs[frames - 1, rows - 1, BLANK])


def plain_losses(transducer, x, lengths, targets, target_lengths) -> torch.Tensor:
    """Each utterance by itself, with the whole joint network's output."""
    losses = []
    for row, (frames, pieces) in enumerate(zip(lengths.tolist(), target_lengths.tolist(), strict=True)):
        said = targets[row, :pieces]
        states, _ = transducer.prediction.lstm(
            torch.cat((torch.zeros(1, CONFIG.hidden, dtype=x.dtype), transducer.prediction.embed(said)))[None]
        )
        encoded = transducer.joint.encoder(x[row, :frames])
        hidden = torch.relu(encoded[:, None] + transducer.joint.prediction(states[0])[None])
        log_probs = transducer.joint.project(hidden).log_softmax(-1)
        losses.append(plain_loss(log_probs, said.tolist()))
    return torch.stack(losses)


def gradients(losses, transducer, x) -> list[torch.Tensor]:
    weights = torch.arange(1, len(losses) + 1).to(losses)  # each utterance's own
    return torch.autograd.grad((weights * losses).sum(), [x, *transducer.parameters()])


BATCHES = [
    ([1], [0]),
    ([1], [3]),  # several pieces on a frame
    ([6], [0]),  # an empty transcript
    ([9, 4, 1, 7], [3, 5, 2, 0]),
]


@pytest.mark.parametrize(("lengths", "target_lengths"), BATCHES)
@pytest.mark.parametrize("chunk", [1, 200, 2**23])
def test_loss_is_the_plain_dynamic_programme(lengths, target_lengths, chunk):
    transducer = make()
    x, *rest = make_batch(lengths, target_lengths)
    x.requires_grad_()
    found, wanted = transducer.loss(x, *rest, chunk=chunk), plain_losses(transducer, x, *rest)
    assert torch.allclose(found, wanted, rtol=1e-12)
    pairs = zip(gradients(found, transducer, x), gradients(wanted, transducer, x), strict=True)
    for one, other in pairs:
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)


def test_loss_is_the_sum_over_all_ways():
    """The definition, by enumeration: an order of T - 1 blanks and U pieces, and a last blank."""
    torch.manual_seed(0)
    log_probs = torch.randn(4, 3, PIECES + 1, dtype=torch.float64).log_softmax(-1)
    targets, total = [2, 5], 0.0
    for said_at in itertools.combinations(range(3 + 2), 2):
        t = u = 0
        score = 0.0
        for step in range(5):
            if step in said_at:
                score, u = score + log_probs[t, u, targets[u]].item(), u + 1
            else:
                score, t = score + log_probs[t, u, BLANK].item(), t + 1
        total += math.exp(score + log_probs[t, u, BLANK].item())
    piece = log_probs[:, :2].gather(-1, torch.tensor(targets)[None, :, None].expand(4, -1, 1))[..., 0]
    found = lattice_loss(log_probs[None, ..., BLANK], piece[None], torch.tensor([4]), torch.tensor([2]))
    assert math.isclose(found.item(), -math.log(total), rel_tol=1e-12)
    assert math.isclose(plain_loss(log_probs, targets).item(), -math.log(total), rel_tol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_padding_and_batch_mates_change_nothing(data):
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=4))
    lengths, target_lengths = (list(column) for column in zip(*sizes, strict=True))
    transducer = make()
    x, frames, targets, said = make_batch(lengths, target_lengths)
    x.requires_grad_()
    together = transducer.loss(x, frames, targets, said, chunk=300)
    (gradient,) = torch.autograd.grad(together.sum(), x)
    for row, (t, u) in enumerate(sizes):
        alone = x.detach()[row : row + 1, :t].requires_grad_()
        loss = transducer.loss(alone, frames[row : row + 1], targets[row : row + 1, :u], said[row : row + 1])
        assert torch.allclose(loss, together[row : row + 1], rtol=1e-12)
        assert torch.allclose(torch.autograd.grad(loss.sum(), alone)[0][0], gradient[row, :t], atol=1e-12)
        assert (gradient[row, t:] == 0).all()


def test_lattice_is_exact_where_fp32_would_not_be():
    """Long, and as unlikely as at the beginning: thousands of nats; gradients are probabilities."""
    generator = torch.Generator().manual_seed(0)
    blank = -7 + 0.5 * torch.randn(1, 600, 31, generator=generator)
    piece = -7 + 0.5 * torch.randn(1, 600, 30, generator=generator)
    args = torch.tensor([600]), torch.tensor([30])
    found = [x.clone().requires_grad_() for x in (blank, piece)]
    lattice_loss(*found, *args).sum().backward()
    wanted = [x.double().requires_grad_() for x in (blank, piece)]
    lattice_loss(*wanted, *args).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.grad.double(), other.grad, rtol=1e-6, atol=1e-9)
    # Each way has one blank a frame, and says each piece once.
    assert torch.allclose(wanted[0].grad.sum(2), -torch.ones(1, 600, dtype=torch.float64))
    assert torch.allclose(wanted[1].grad.sum(1), -torch.ones(1, 30, dtype=torch.float64))


def test_loss_agrees_with_torchaudio():
    from torchaudio.functional import rnnt_loss

    transducer = make(torch.float32)
    x, lengths, targets, said = make_batch([9, 4, 1, 7], [3, 5, 2, 1], torch.float32)
    encoded = transducer.joint.encoder(x)[:, :, None]
    predicted = transducer.joint.prediction(transducer.prediction(targets))[:, None]
    logits = transducer.joint(encoded, predicted)
    integers = (n.int() for n in (targets, lengths, said))
    wanted = rnnt_loss(logits, *integers, blank=BLANK, reduction="none")
    assert torch.allclose(transducer.loss(x, lengths, targets, said), wanted, rtol=1e-5)


def test_bf16_around_the_loss():
    """The joint network multiplies in bf16; its softmax, the lattice and the LSTM do not."""
    transducer = make(torch.float32)
    batch = make_batch([9, 4, 1, 7], [3, 5, 2, 0], torch.float32)
    exact = transducer.loss(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert transducer.prediction(batch[2]).dtype == torch.float32
        blank, piece = transducer.lattice(batch[0], batch[2])
        found, in_chunks = transducer.loss(*batch), transducer.loss(*batch, chunk=200)
        in_chunks.sum().backward()
    assert blank.dtype == piece.dtype == found.dtype == torch.float32
    assert torch.allclose(found, exact, rtol=0.05) and not torch.equal(found, exact)
    assert torch.allclose(found, in_chunks, rtol=1e-5)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in transducer.parameters())


def test_nothing_of_the_joint_networks_output_is_kept():
    """Of several chunks' outputs, none is there when the next one comes, nor when all are done."""
    transducer, alive = make(torch.float32), []
    batch = make_batch([200], [20], torch.float32)
    transducer.joint.project.register_forward_hook(lambda *args: alive.append(weakref.ref(args[-1])))

    def kept(chunk: int) -> list[bool]:
        alive.clear()
        loss = transducer.loss(*batch, chunk=chunk)
        there = [output() is not None for output in alive]
        loss.sum().backward()
        return there

    whole = 200 * 21 * (PIECES + 1)
    assert kept(whole) == [True] and kept(whole // 4) == [False] * 4
    assert len(alive) == 8 and not any(output() is not None for output in alive)  # each twice


GROWTH = """
import torch
from asr.model.transducer import Transducer, TransducerConfig
from asr.processes import resident_gib

transducer = Transducer(8, 255, TransducerConfig(hidden=8, joint=8, dropout=0.0))

def step(frames):
    x, targets = torch.randn(4, frames, 8), torch.randint(1, 256, (4, 30))
    lengths = torch.full((4,), frames), torch.full((4,), 30)
    transducer.loss(x, lengths[0], targets, lengths[1], chunk=2**18).sum().backward()

step(20)
before = resident_gib()
step(600)
print(2**10 * (resident_gib(peak=True) - before))
"""


def test_a_cpus_process_does_not_grow_with_the_joint_networks_output():
    """Of which there are 73 MiB, in chunks of one."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40


# With the gate, which has a fourth matrix as relative positions have; inline has its MLP in its place.
PAPERS = {name: {"gate": "plain"} for name in ATTENTIONS} | {"softmax": {}, "inline": {}}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_size_s_has_the_papers_parameters_with_each_attention(attention):
    """10.3 M with 1000 pieces (Gulati et al., Table 1; the MALA paper's Table 7)."""
    options = {attention: ATTENTIONS[attention].Options(**PAPERS[attention])}
    config = ModelConfig(attention, options=options, head="transducer")
    with torch.device("meta"):
        encoder = Encoder(config.encoder, config.frontend.mels, attention, "auto", config.options)
        heads = make_heads(config, encoder.dim, 1000)
    count = sum(p.numel() for module in (encoder, *heads.values()) for p in module.parameters())
    assert list(heads) == ["transducer"] and f"{count / 1e6:.1f}" == "10.3"


def test_it_learns_and_greedy_decoding_says_what_it_learnt():
    """Frames that sound like a piece or are silent, to the pieces, of which no two neighbours are alike.

    On a frame that sounds like the last piece, the prediction network must know that this has been said.
    """
    torch.manual_seed(0)
    transducer = Transducer(8, PIECES, TransducerConfig(hidden=16, joint=16, dropout=0.0))
    optimizer = torch.optim.Adam(transducer.parameters(), 0.02)
    sounds = 3 * torch.randn(PIECES + 1, 8)
    sounds[BLANK] = 0

    def draw(count: int):
        sounding = torch.rand(count, 10) < 0.7
        pieces = 1 + (sounding * torch.randint(1, PIECES, (count, 10))).cumsum(1) % PIECES
        heard = torch.where(sounding, pieces, BLANK)
        said = [row[row != BLANK] for row in heard]
        targets = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
        x = sounds[heard] + 0.3 * torch.randn(count, 10, 8)
        return x, torch.full((count,), 10), targets, torch.tensor([len(row) for row in said])

    for _ in range(150):
        optimizer.zero_grad()
        transducer.loss(*draw(16)).mean().backward()
        optimizer.step()
    x, lengths, targets, said = draw(30)
    found = [item.classes for item in transducer_greedy(transducer, x, lengths)]
    right = [one == row[:n].tolist() for one, row, n in zip(found, targets, said, strict=True)]
    assert sum(right) >= 27
