"""The training of the storybook models: its parts, and all of it with networks that learn next to nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_storybook import SIDE, SMALL
from torch import nn

from evaluation.storybook.cases import draw_cases
from evaluation.storybook.making import Settings, clips
from evaluation.storybook.recogniser import Recogniser, RecogniserLesson
from evaluation.storybook.report import Judge
from training.storybook.autoencoder import AutoencoderLesson, FrameBatches
from training.storybook.camera import CameraBatches, CameraLesson
from training.storybook.fitting import Plan, Trainer, finished, under
from training.storybook.gallery import Gallery, Painters, to_network
from training.storybook.lessons import ReadingBatches, VideoBatches, VideoLesson
from training.storybook.networks import ImageBranch, Network, ReadingLesson
from training.storybook.painting import paint
from training.storybook.plot import plot
from training.storybook.running import Recipe, Run
from training.storybook.saving import save_model
from training.storybook.specs import STANDARD, TINY
from training.storybook.stages import start, train_stills, train_text_to_video
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.lora import read_lora
from vc_core.conditioning.tokenizer import tokenize
from vc_core.errors import UserError
from vc_core.pipeline import VideoCrafter
from worlds.storybook.drawing import render

ENCODED = TINY.text_to_video.autoencoder


@pytest.fixture(scope="module")
def arrays():
    return paint(8, np.random.default_rng(0), size=SIDE)


@pytest.fixture
def gallery(arrays) -> Gallery:
    made = Gallery(SMALL.text_to_video, "cpu", most=100)
    made.waiting = [made._on_device(arrays)]
    made.count = len(arrays["frames"])
    made.keep(4)
    return made


@pytest.fixture
def encoded(gallery) -> Gallery:
    torch.manual_seed(0)
    gallery.encode(Autoencoder(ENCODED), 1)
    return gallery


def lesson_of(spec, gallery: Gallery, *, with_image: bool = False, hinted: bool = False) -> VideoLesson:
    torch.manual_seed(0)
    return VideoLesson(
        Network(spec, gallery.words.size), ImageBranch(spec) if with_image else None, hinted=hinted
    )  # fmt: skip


def test_rows_are_the_tokenizers_numbers(gallery):
    texts = [str(text) for text in paint(2, np.random.default_rng(1), size=8)["captions"].ravel()]
    rows = torch.from_numpy(gallery.words.rows([*texts, ""])).long()
    assert torch.equal(rows, gallery.words.table[tokenize([*texts, ""], 77)])
    unknown = gallery.words.rows(["a red zebra"])[0]
    assert gallery.words.unknown in unknown
    table = torch.arange(gallery.words.size).float()[:, None]
    assert torch.equal(gallery.words.spread(table)[tokenize(texts[0], 77)[0]][:, 0].long(), rows[0])


def test_the_text_tower_is_read_as_it_will_be(gallery):
    network = Network(SMALL.text_to_video, gallery.words.size)
    rows = torch.from_numpy(gallery.words.rows(["a red boat sails to the left at the sea", ""])).long()
    assert torch.allclose(network.read(rows), network.text.encode(rows), atol=1e-5)


def test_only_clips_of_training_are_kept_as_latents(arrays, encoded):
    assert len(encoded) == int((~arrays["unseen"]).sum())
    assert encoded["latents"].shape[1:] == (16, 4, SIDE // 8, SIDE // 8)
    assert torch.equal(encoded["firsts"], torch.from_numpy(arrays["frames"][~arrays["unseen"], 0]))
    assert len(encoded.kept[0]["frames"]) == len(arrays["frames"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["text", "hinted", "image", "continuing", "reading", "camera"])
def test_a_lesson_of_each_kind_learns(kind, dtype, encoded, tmp_path):
    spec = {"image": SMALL.image_to_video, "continuing": SMALL.continuing}.get(kind, SMALL.text_to_video)
    if kind == "reading":
        lesson: nn.Module = ReadingLesson(SMALL.image_to_video)
        draw = ReadingBatches(encoded, 2)
    elif kind == "camera":
        lesson = CameraLesson(Network(spec, encoded.words.size))
        nn.init.normal_(lesson.network.unet.out[-1].weight, std=0.1)
        draw = CameraBatches(encoded, lesson, 2)
    else:
        lesson = lesson_of(spec, encoded, with_image=kind in ("image", "continuing"), hinted=kind == "hinted")
        draw = VideoBatches(encoded, lesson, 2)
    trainer = Trainer(lesson, Plan(seconds=100), tmp_path, kind, dtype=dtype)
    before = trainer.master.detach().clone()
    losses = [float(trainer._step(draw(0.1), 0.1)) for _ in range(2)]
    assert np.isfinite(losses).all()
    assert not torch.equal(trainer.master, before)
    assert trainer.master.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autoencoder_and_classifier_learn(dtype, gallery, tmp_path):
    draw = FrameBatches(gallery, ENCODED, 4)
    trainer = Trainer(AutoencoderLesson(ENCODED), Plan(seconds=100), tmp_path, "a", dtype=dtype)
    assert np.isfinite([float(trainer._step(draw(0.0), 0.1)) for _ in range(2)]).all()
    part = gallery.kept[0]
    batch = (to_network(part["frames"][:, 3]), part["names"], part["poses"][:, 3], part["around"][:, :3])
    judge = Trainer(RecogniserLesson(), Plan(seconds=100), tmp_path, "j", dtype=dtype)
    losses = [float(judge._step(batch, 0.1)) for _ in range(6)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_a_step_without_finite_gradients_changes_nothing(gallery, tmp_path):
    trainer = Trainer(AutoencoderLesson(ENCODED), Plan(seconds=100), tmp_path, "a")
    before = trainer.master.detach().clone()
    frames, weights, noise = FrameBatches(gallery, ENCODED, 2)(0.0)
    trainer._step((frames * torch.inf, weights, noise), 0.1)
    assert torch.equal(trainer.master, before)


def test_a_run_resumes_with_everything(encoded, tmp_path):
    lesson = lesson_of(SMALL.text_to_video, encoded)
    trainer = Trainer(lesson, Plan(seconds=100), tmp_path, "video")
    draw = VideoBatches(encoded, lesson, 2)
    for _ in range(3):
        trainer._step(draw(0.1), 0.1)
    trainer.earlier = 60.0
    trainer.save()
    later = Trainer(lesson_of(SMALL.text_to_video, encoded), Plan(seconds=100), tmp_path, "video")
    assert later.resume()
    assert later.step == 3
    assert later.seconds > 60
    assert torch.equal(later.master, trainer.master)
    for key, value in trainer.averaged.items():
        assert torch.equal(later.averaged[key], value), key
    assert torch.equal(
        later.optimizer.state[later.master]["exp_avg"], trainer.optimizer.state[trainer.master]["exp_avg"]
    )
    with pytest.raises(KeyError, match="no place"):
        later.start_from({"strange": torch.zeros(1)})


def test_weights_of_the_clips_make_errors_of_content_count_alike(encoded):
    draw = VideoBatches(encoded, lesson_of(SMALL.text_to_video, encoded), 2)
    assert abs(float(draw.weights[0]) - 1) < 0.01
    assert 10 < float(draw.weights[-1]) < 12


def test_batches_show_what_the_model_will_get(encoded):
    torch.manual_seed(0)
    lesson = lesson_of(SMALL.continuing, encoded, with_image=True)
    draw = VideoBatches(encoded, lesson, 8)
    x, velocity, _, timesteps, _, _, images, beside = draw(0.0)
    alpha, sigma = (table[timesteps].view(-1, 1, 1, 1, 1) for table in (draw.alpha, draw.sigma))
    scale = draw.scale[timesteps].view(-1, 1, 1, 1, 1)
    clips = (alpha * x - sigma * velocity) / (alpha.square() + sigma.square()) / scale
    assert torch.allclose(clips[:, :, 0], beside[:, :, 0], atol=1e-3)
    assert images.shape == (8, 3, SIDE, SIDE)
    kinds = {bool((row[:, 5] == 0).all()) for row in beside}
    assert kinds == {True, False}  # of some clips both ends, of others the first frame alone
    for row, clip in zip(beside, clips, strict=True):
        if (row[:, 5] == 0).all():
            assert torch.allclose(row[:, -1], clip[:, -1], atol=1e-3)


def test_all_of_it_from_drawings_to_a_judged_model(gallery, tmp_path: Path):
    run = Run(
        folder=tmp_path,
        models=tmp_path / "models",
        device="cpu",
        seconds=2.0,
        recipe=Recipe(clips_at_once=2, images_at_once=2),
        specs=SMALL,
    )
    run.gallery = gallery
    gallery.most = gallery.count
    torch.manual_seed(0)
    torch.save(Autoencoder(ENCODED).state_dict(), tmp_path / "normal_autoencoder.pt")
    gallery.encode(run.autoencoder(), 1)
    train_text_to_video(run)
    lesson = ReadingLesson(SMALL.image_to_video)
    Trainer(lesson, Plan(seconds=1), tmp_path, "reading").save()
    weights = start(run, SMALL.continuing)
    trainer = run.trainer(run.network(SMALL.continuing, with_image=True), "continuing")
    trainer.start_from(weights)
    model = run.network(SMALL.continuing, with_image=True)
    save_model(run.models, model, trainer.averaged, run.autoencoder(), gallery.words)

    scenes = draw_cases(2)
    drawn = torch.from_numpy(np.stack([render(case.scene, size=SIDE) for case in scenes]))
    judge = Judge(cases=scenes, drawn=drawn, model=Recogniser(), folder=tmp_path, device="cpu", until=float("inf"))
    for name, settings in (
        ("storybook_t2v", Settings(steps=1)),
        ("storybook_dynamicrafter", Settings(steps=1, ends=2)),
    ):
        judge.ask(name, run.models / f"{name}.safetensors", settings, 2, sheet=True)
        assert judge.found[name]["clips"] == 2
        assert (tmp_path / f"{name}.jpg").exists()
    assert "first frame, dB" in judge.found["storybook_dynamicrafter"]
    plot(sorted(tmp_path.glob("*.jsonl"))).save(tmp_path / "losses.png")
    crafter = VideoCrafter.load(run.models / "storybook_t2v.safetensors")
    trained = under(finished(tmp_path, "text_to_video"), "network.unet.")
    name, value = next(iter(trained.items()))
    assert torch.equal(crafter.parts.unet.state_dict()[name].float(), value.half().float())
    made = clips(crafter, scenes, Settings(steps=1, cfg=1.0), drawn)
    assert made.shape == (2, 16, 3, SIDE, SIDE)


def test_captions_for_the_camera_layers_do_not_name_the_camera(encoded):
    draw = CameraBatches(encoded, CameraLesson(Network(SMALL.text_to_video, encoded.words.size)), 2)
    texts = ["at night, a red car drives left", "at night, a red car drives left, the camera pans up", "a red ball"]
    rows = torch.from_numpy(encoded.words.rows(texts)).long()
    found = draw.without_camera(rows)
    assert torch.equal(found[0], rows[0])
    assert torch.equal(found[1], rows[0])
    assert torch.equal(found[2], rows[2])


def test_progress_is_judged_during_training(gallery, tmp_path: Path, monkeypatch):
    run = Run(
        folder=tmp_path,
        models=tmp_path / "models",
        device="cpu",
        seconds=2000.0,
        recipe=Recipe(still_clips_at_once=1, stills_of_clip=2, watched=1, watch_seconds=0),
        specs=SMALL,
    )
    run.gallery = gallery
    gallery.most = gallery.count
    torch.manual_seed(0)
    torch.save(Autoencoder(ENCODED).state_dict(), tmp_path / "normal_autoencoder.pt")
    gallery.encode(run.autoencoder(), 1)
    run.models.mkdir()
    Recogniser().save(run.models / "storybook_judge.safetensors")
    np.save(tmp_path / "cases.npy", np.stack([render(draw_cases(1)[0].scene, size=SIDE)]))

    class AskedError(Exception):
        pass

    def ask(self, name, path, settings, count):
        assert path.exists()
        raise AskedError(name, len(self.drawn))

    monkeypatch.setattr(Judge, "ask", ask)
    with pytest.raises(AskedError, match="stills_1', 1"):
        train_stills(run)


def test_painters_leave_whole_files_and_stop(tmp_path):
    folder = tmp_path / "drawings"
    gallery = Gallery(STANDARD.text_to_video, "cpu", most=2)
    with Painters(folder, processes=1, seed=0, clips=2) as painters:
        gallery.wait_for(painters, 2)
        assert gallery.full
        assert gallery.waiting[0]["frames"].shape == (2, 16, 96, 96, 3)
        assert not list(folder.glob("*.npz"))


def test_a_folder_of_painters_that_all_fail_is_an_error(tmp_path):
    painters = Painters(tmp_path / "drawings", processes=1, seed=0, clips=-1)
    with painters:
        painters._running[0].wait()
        with pytest.raises(RuntimeError, match="ended"):
            painters.take(1)


def test_the_files_are_small_enough_to_ship(tmp_path):
    """Counted from the standard specs: all models together have 36 MiB."""
    total = 0
    for spec in (STANDARD.text_to_video, STANDARD.image_to_video, STANDARD.continuing):
        network = Network(spec, 2)
        table = spec.text_encoder.vocab_size * spec.text_encoder.width
        parts: list[nn.Module] = [network, Autoencoder(spec.autoencoder)]
        if spec.image_encoder is not None:
            parts.append(ImageBranch(spec))
        total += 2 * (table + sum(p.numel() for part in parts for p in part.parameters()))
    assert total < 36 * 2**20
    with pytest.raises(UserError):
        read_lora(tmp_path / "none.safetensors", STANDARD.text_to_video.unet)
