"""CRT against the published program: names, tiles, CAMs of both branches, losses, one training step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema import Config
from models.crt import CnnBranch, Crt, CrtSettings, Refinement, TransformerBranch, mutual_l1
from models.method import Batch
from scripts.build import build_method, load_config
from tests.golden_weights import filled_branches
from tests.tiny_data import tiny_config
from utils.cams.merge import add_mirrored, with_mirrored
from utils.errors import UserError
from utils.training.weights import load_weights, read_weights, save_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "crt"
CFG = load_config("configs/crt_voc.yaml")
SETTINGS = cast(CrtSettings, CFG.settings)
STEP = np.load(GOLDEN / "cam_train_step.npz")


@pytest.fixture(scope="module")
def method() -> Crt:
    """Both networks with the recipe's weights; of names for the same tensor the first counts."""
    return filled_branches(Crt, CFG)


@pytest.mark.parametrize(("branch", "name", "keys"), [("transformer", "deits", 152), ("cnn", "resnet152", 2792)])
def test_keys_and_shapes_are_the_published_ones(method: Crt, branch: str, name: str, keys: int) -> None:
    network: Any = getattr(method, branch)
    state = network.to_published(network.state_dict())
    assert network.from_published(state).keys() == network.state_dict().keys() and len(state) == keys
    expected = json.loads((GOLDEN / f"state_dict_{name}_cam_voc.json").read_text())
    assert {k: list(v.shape) for k, v in state.items()} == expected


def _pair(golden: Any, number: str = "") -> Tensor:
    seed, hw = int(golden[f"seed{number}"] if number else golden["input_seed"]), golden[f"hw{number}"]
    drawn = np.random.RandomState(seed).standard_normal((1, 3, *hw))  # noqa: NPY002
    return with_mirrored(torch.from_numpy(drawn.astype(np.float32)))


@pytest.mark.parametrize("number", ["0", "1"])
@torch.no_grad()
def test_published_cams_of_the_transformer(method: Crt, number: str) -> None:
    golden, network = np.load(GOLDEN / "deit_cam_eval.npz"), method.transformer.eval()
    tiles_seen: list[Tensor] = []
    hook = network.backbone.register_forward_hook(lambda module, inputs, output: tiles_seen.extend(output))
    maps, logits = network(_pair(golden, number))
    hook.remove()
    tokens, attention = tiles_seen
    np.testing.assert_allclose(attention, golden[f"attn{number}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(tokens[0, 0], golden[f"cls_token_out{number}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(add_mirrored(maps)[0, :-1], golden[f"cam{number}"], rtol=0, atol=1e-4)
    assert logits.shape == (2, 20)


@torch.no_grad()
def test_published_cams_of_the_convolutional_network(method: Crt) -> None:
    golden = np.load(GOLDEN / "cnn_cam_eval.npz")
    maps, _ = method.cnn.eval()(_pair(golden))
    np.testing.assert_allclose(add_mirrored(maps)[0, :-1], golden["cam"], rtol=0, atol=2e-3)


def test_published_training_step(method: Crt) -> None:
    drawn = np.random.RandomState(int(STEP["input_seed"])).standard_normal((2, 3, 336, 336))
    batch: Batch = {"images": torch.from_numpy(drawn.astype(np.float32)), "labels": torch.from_numpy(STEP["label"])}
    output = Refinement(method.transformer, method.cnn, SETTINGS, bound=True).train()(batch)
    np.testing.assert_allclose(list(output["losses"].values()), STEP["losses"], rtol=1e-4)
    np.testing.assert_allclose(output["views"]["cnn_map"][0], STEP["cam1"][0], rtol=0, atol=2e-3)
    np.testing.assert_allclose(output["views"]["vit_map"][0], STEP["cam2"][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(output["loss"].detach(), STEP["total_later"], rtol=1e-4)
    output["loss"].backward()
    for network, branch in ((method.cnn, "cnn"), (method.transformer, "vit")):
        parameters = dict(cast(Any, network).named_parameters())
        for name, norm in zip(STEP[f"names_{branch}"], STEP[f"gradnorm_{branch}_later"], strict=True):
            gradient = parameters[next(iter(cast(Any, network).from_published({str(name): torch.zeros(1)})))].grad
            assert gradient is None if np.isnan(norm) else float(gradient.norm()) == pytest.approx(norm, rel=1e-3)
    head, classifier = method.transformer.head.weight.grad, method.cnn.classifier.weight.grad
    np.testing.assert_allclose(cast(Tensor, head)[:, ::64], STEP["grad_head_weight_slice_later"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(cast(Tensor, classifier)[:, ::128], STEP["grad_classifier_slice_later"], rtol=1e-3, atol=1e-4)


def _losses(settings: CrtSettings) -> tuple[list[Tensor], Tensor, Tensor]:
    golden = np.load(GOLDEN / "refine_losses.npz")
    cnn, vit = (torch.from_numpy(golden[name]).requires_grad_() for name in ("cam_cnn", "cam_vit"))
    labels = torch.from_numpy(golden["label"])
    classify = [F.multilabel_soft_margin_loss(maps.mean(dim=(2, 3)), labels) for maps in (cnn, vit)]
    return [*classify, mutual_l1(cnn, vit, labels, (336, 336), settings)], cnn, vit


def test_published_losses_and_gradients() -> None:
    golden, (losses, cnn, vit) = np.load(GOLDEN / "refine_losses.npz"), _losses(SETTINGS)
    np.testing.assert_allclose([float(x.detach()) for x in losses], golden["losses"], rtol=0, atol=1e-6)
    total = losses[0] + losses[1] + SETTINGS.l1_weight * losses[2]
    total.backward()
    np.testing.assert_allclose(total.detach(), golden["total"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(cast(Tensor, cnn.grad), golden["grad_cnn"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(cast(Tensor, vit.grad), golden["grad_vit"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("pulls", ["vit", "cnn"])
def test_the_l1_term_pulls_only_the_branch_asked_for(pulls: str) -> None:
    losses, cnn, vit = _losses(CrtSettings(l1_pulls=pulls))
    losses[2].backward()
    assert (cnn.grad is None, vit.grad is None) == (pulls == "vit", pulls == "cnn")


def test_the_l1_term_over_present_classes_and_other_grids() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    cnn, vit = torch.zeros(2, 2, 3, 3), torch.ones(2, 2, 3, 3)
    vit[0, 1] = vit[1, 0] = 9.0
    present = CrtSettings(l1_classes="present")
    assert mutual_l1(cnn, vit, labels, (6, 6), present) == 1
    assert mutual_l1(cnn, vit, labels, (6, 6), CrtSettings()) == 5
    assert mutual_l1(torch.zeros(2, 2, 6, 6), vit, labels, (6, 6), present) == 1


def test_exact_padding_and_few_tiles_at_once_change_nothing_but_the_position_of_tiles(tmp_path: Path) -> None:
    network = TransformerBranch(_tiny(tmp_path)).eval()
    images = torch.randn(2, 3, 37, 50)
    with torch.no_grad():
        whole, logits = network(images)
        network.vit.tiles_at_once = 3
        torch.testing.assert_close(network(images)[0], whole)
        chosen = network(images, torch.tensor([2, 0]))
    torch.testing.assert_close(chosen[0], whole[:, [2, 0]])
    torch.testing.assert_close(chosen[1], logits[:, [2, 0]])
    assert whole.shape == (2, 4, 5, 7)


def test_blocks_computed_again_give_the_same_gradients(tmp_path: Path) -> None:
    cfg = _tiny(tmp_path)
    torch.manual_seed(0)
    plain, again = Crt(cfg), Crt(replace(cfg, model=replace(cfg.model, checkpoint_activations=True)))
    again.load_state_dict(plain.state_dict())
    assert again.transformer.backbone.checkpoint_activations and again.cnn.backbone.checkpoint_activations
    batch: Batch = {"images": torch.randn(2, 3, 32, 32), "labels": torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0]])}
    for method in (plain, again):
        method.step_module(method.phases()[-1]).train()(batch)["loss"].backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def _tiny(tmp_path: Path, *overrides: str) -> Config:
    return tiny_config(tmp_path, "method=crt", *overrides)


def test_a_single_pass_is_timms_vision_transformer(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.models.vision_transformer.VisionTransformer(16, 8, num_classes=0, embed_dim=16, depth=2, num_heads=2).eval()
    ours = TransformerBranch(_tiny(tmp_path, "crt.vit.passes=1", "crt.vit.outer_residual=false")).backbone.eval()
    ours.load_state_dict(theirs.state_dict())
    tiles = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(ours(tiles)[0], theirs.forward_features(tiles))


def test_groups_are_those_of_both_published_optimisers(method: Crt) -> None:
    groups = method.parameter_groups()
    assert [group["lr_scale"] * CFG.train.lr for group in groups] == [0.1, 1.0, 0.1, 1.0]
    names = {id(p): name for name, p in method.transformer.named_parameters()}
    assert [names[id(p)] for p in groups[1]["params"]] == ["head.weight", "head.bias"]
    assert [len(g["params"]) for g in groups] == [150, 2, len(list(method.cnn.backbone.parameters())), 1]
    norms = [m for m in method.train().cnn.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms) and norms[-1].weight.requires_grad


def test_imagenet_weights_of_both_branches(tmp_path: Path) -> None:
    """DeiT's release is a dictionary under `model`, and its 1000-class head has our head's name; timm's file is plain."""
    cfg = _tiny(tmp_path, "model.pretrained=cnn.pth", "crt.vit.pretrained=vit.pth")
    other = Crt(cfg)
    vit = other.transformer.to_published(other.transformer.state_dict())
    vit |= {"head.weight": torch.ones(1000, 16), "head.bias": torch.ones(1000), "head_dist.weight": torch.ones(1000, 16)}
    torch.save({"model": vit}, tmp_path / "vit.pth")
    save_weights(vit, tmp_path / "timm.safetensors")
    cnn = {k.removeprefix("backbone."): v for k, v in other.cnn.state_dict().items() if k != "classifier.weight"}
    torch.save(cnn, tmp_path / "cnn.pth")
    for file in ("vit.pth", "timm.safetensors"):
        cfg.model.pretrained, cast(Any, cfg.settings).vit.pretrained = str(tmp_path / "cnn.pth"), str(tmp_path / file)
        method = cast(Crt, build_method(cfg, torch.device("cpu")))
        torch.testing.assert_close(method.transformer.backbone.pos_embed, other.transformer.backbone.pos_embed)
        torch.testing.assert_close(method.cnn.backbone.state_dict(), other.cnn.backbone.state_dict())
        assert method.transformer.head.weight.shape[0] == 3


def test_a_trunk_whose_keys_have_a_prefix_here_loads_its_librarys_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "tf_efficientnet_lite0"
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "cnn.pth")
    settings = [f"model.backbone=timm:{name}", "model.output_stride=16", f"model.pretrained={tmp_path / 'cnn.pth'}"]
    method = cast(Crt, build_method(_tiny(tmp_path, *settings), torch.device("cpu")))
    published = method.cnn.from_published(method.cnn.to_published(method.cnn.state_dict()))
    assert published.keys() == method.cnn.state_dict().keys()


def test_a_head_of_another_data_set_is_not_dropped_silently(tmp_path: Path) -> None:
    cfg = _tiny(tmp_path)
    network = TransformerBranch(cfg)
    state = {**network.state_dict(), "head.weight": torch.ones(20, 16, 3, 3), "head.bias": torch.ones(20)}
    with pytest.raises(UserError, match=r"data\.num_classes=20, this network has 3"):
        load_weights(network, state, source="their.pth")
    load_weights(network, state, source="their.pth", allow_missing=["head.*"], allow_unexpected=["head.*"])


def test_names_of_one_tensor_that_disagree_are_refused(tmp_path: Path) -> None:
    network = CnnBranch(_tiny(tmp_path))
    state = {"classifier.weight": torch.zeros(1), "newly_added.0.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"newly_added\.0\.weight differs from another name"):
        load_weights(network, state, source="their.pth")


def test_published_files_with_several_names_for_a_tensor_load_strictly(tmp_path: Path) -> None:
    cfg = _tiny(tmp_path, "model.backbone=resnet50", "model.output_stride=16", "crt.cnn_frozen=[layer1,layer2]")
    network, other = CnnBranch(cfg), CnnBranch(cfg)
    torch.save(network.to_published(network.state_dict()), tmp_path / "res_cam.pth")
    state = read_weights(tmp_path / "res_cam.pth", "cnn")
    assert len(state) > 2 * len(network.state_dict())
    load_weights(other, state, source="res_cam.pth")
    torch.testing.assert_close(other.state_dict(), network.state_dict())
    assert {n.split(".")[1] for n, p in network.named_parameters() if not p.requires_grad} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
    }
    with pytest.raises(UserError, match=r"1 missing keys \(classifier\.weight\)"):
        load_weights(other, {k: v for k, v in state.items() if k.startswith("resnet50.")}, source="res_cam.pth")


def test_a_file_of_the_convolutional_branch_alone_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "res152_cam.pth")
    assert read_weights(tmp_path / "res152_cam.pth", "cnn").keys() == {"a"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["crt.input_size=30"], r"input_size is 30, but tiles of 16 every 8"),
        (["crt.vit.tile_stride=4"], r"tile_stride is 4, expected a multiple of crt\.vit\.patch \(8\)"),
        (["crt.vit.heads=3"], r"width is 16, expected a multiple of crt\.vit\.heads \(3\)"),
        (["crt.vit.pretrained=hub"], r"expected e\.g\. timm:deit_small_patch16_224\.fb_in1k"),
        (["crt.vit_weight=0", "crt.l1_pulls=cnn"], "the L1 term must teach the transformer"),
        (["crt.patches=4", "crt.crop_size=24"], "patches is 4, expected 0"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _tiny(tmp_path, *overrides)


def test_networks_it_does_not_have(tmp_path: Path) -> None:
    for override, message in (
        ("cam.network=local", "has global"),
        ("cam.merge=max cam.activation=softmax", "background score"),
    ):
        cfg = _tiny(tmp_path, *override.split())
        with pytest.raises(ValueError, match=message):
            Crt.inference_network(cfg, cfg.cam.network)
    with pytest.raises(ValueError, match="frozen names layer1, but the trunk's parts are"):
        CnnBranch(_tiny(tmp_path, "crt.cnn_frozen=[layer1]"))
