"""espeak-ng's voices through ctypes: text in, 16 kHz samples out. No system package is needed.

The library and its voices come with the espeakng-loader wheel. It keeps global state, so a process has
one voice at a time; use a process pool for more.
"""

import ctypes
import functools
from pathlib import Path

import espeakng_loader
import torch
import torchaudio.functional as AF

from asr.errors import UserError

SAMPLE_RATE = 16_000

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def variants() -> list[str]:
    """Names of the voice variants, without the ones that whisper, croak or are meant as robots.

    Nor those with breath: espeak-ng's breathing noise differs from run to run.
    """
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    odd = ("robo", "whisper", "croak", "demonic", "fast", "announcer")
    return sorted(
        path.name
        for path in folder.iterdir()
        if not any(word in path.name.lower() for word in odd) and b"\nbreath" not in path.read_bytes()
    )


class Speaker:
    """The synthesiser of this process. Only one may exist."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _INITIALIZE_DONT_EXIT)
        if rate <= 0:
            raise UserError("espeak-ng could not start; reinstall the espeakng-loader package")
        self._rate = rate
        self._chunks: list[bytes] = []
        self._callback = _CALLBACK(self._collect)  # kept: ctypes does not hold a reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> torch.Tensor:
        """Speak ``text``; returns (samples,) float32 at 16 kHz.

        Args:
            voice: espeak's name, language and variant: ``en-us+f3``.
            rate: words per minute, 80 to 450.
            pitch: 0 to 100, 50 is the voice's own.
            pitch_range: 0 (monotone) to 100.

        Raises:
            UserError: espeak-ng does not know the voice, or gives no sound.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice named {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.lower().encode()
        self._chunks.clear()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        if not self._chunks:
            raise UserError(f"espeak-ng gave no sound for {text!r} with voice {voice!r}")
        samples = torch.frombuffer(bytearray(b"".join(self._chunks)), dtype=torch.int16)
        return AF.resample(samples / 32768, self._rate, SAMPLE_RATE)


@functools.cache
def speaker() -> Speaker:
    """The synthesiser of this process, started on first use."""
    return Speaker()
