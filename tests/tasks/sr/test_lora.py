"""Adapters: which layers, what they change, and that PEFT and diffusers read their files as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, ZImageTransformer2DModel
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mlkit.errors import CheckpointError, SettingsError
from mlkit.tasks.sr.bases import Base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae
from mlkit.tasks.sr.lora import adapt, base_only, is_adapted, load_adapter, save_adapter, targets

Z = torch.randn(2, 24, 8, 12, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.25, 0.7])


def transformer() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    made = new_transformer(new_vae(), heads=1, double_blocks=1, single_blocks=2, prompt_channels=4)
    nn.init.normal_(made.proj_out.weight, std=0.05)
    return made.eval()


def base(dtype: torch.dtype = torch.float32) -> Base:
    return Base.of(
        transformer=transformer().to(dtype),
        vae=new_vae(),
        prompt_embeds=torch.zeros(1, 4),
        pooled=torch.zeros(4),
        name="tiny",
    )


def zimage() -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
    )


def perturbed(base: Base, seed: int = 2) -> Base:
    """Let the adapter do something: B starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in base.transformer.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return base


def adapted(rank: int = 4, alpha: float = 8.0, spec: str | tuple[str, ...] = "all-linear") -> Base:
    made = base()
    torch.manual_seed(7)
    adapt(made, rank, alpha, 0.0, spec)
    return perturbed(made)


@torch.no_grad()
def velocity(base: Base) -> torch.Tensor:
    return base.velocity(Z, T)


# ---- targets ---------------------------------------------------------------------------------------------------


def test_all_linear_is_every_linear_layer_but_the_last() -> None:
    model = transformer()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear - set(targets(model, "all-linear")) == {"proj_out"}
    model = zimage()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear - set(targets(model, "all-linear")) == {"all_final_layer.2-1.linear"}


def test_attention_is_its_projections() -> None:
    single = [f"single_transformer_blocks.{i}.attn.to_{part}" for i in range(2) for part in "qkv"]
    added = ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_q", "to_k", "to_v", "to_out.0"]
    double = [f"transformer_blocks.0.attn.{part}" for part in added]
    assert sorted(targets(transformer(), "attention")) == sorted([*single, *double])
    blocks = ("noise_refiner", "context_refiner", "layers")
    assert sorted(targets(zimage(), "attention")) == sorted(
        f"{block}.0.attention.{part}" for block in blocks for part in ("to_q", "to_k", "to_v", "to_out.0")
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (r"single_transformer_blocks\.\d\.proj_(mlp|out)", ["0.proj_mlp", "0.proj_out", "1.proj_mlp", "1.proj_out"]),
        (r".*proj_out", ["0.proj_out", "1.proj_out"]),  # not the output layer of the same name
        (("proj_out",), ["0.proj_out", "1.proj_out"]),
        (("single_transformer_blocks.1.proj_mlp",), ["1.proj_mlp"]),
        ("proj_mlp", ["0.proj_mlp", "1.proj_mlp"]),
    ],
)
def test_a_regex_and_names_choose_layers(spec: str | tuple[str, ...], expected: list[str]) -> None:
    assert sorted(targets(transformer(), spec)) == [f"single_transformer_blocks.{name}" for name in expected]


def test_presets_and_names_go_together() -> None:
    both = targets(transformer(), ("attention", "proj_mlp"))
    assert set(both) == {*targets(transformer(), "attention"), *targets(transformer(), "proj_mlp")}
    assert len(both) == len(set(both))


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("spec", ["all-linear", "attention", ("proj_out",), r".*\.proj_mlp|x_embedder"])
def test_exactly_the_chosen_layers_are_adapted(spec: str | tuple[str, ...], rank: int) -> None:
    wanted = targets(transformer(), spec)
    made = base()
    assert adapt(made, rank, 4.0, 0.0, spec) == wanted
    own = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"): parameter
        for name, parameter in made.transformer.named_parameters()
        if "lora_A" in name
    }
    assert sorted(own) == sorted(wanted)
    assert {parameter.shape[0] for parameter in own.values()} == {rank}
    trained = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(wanted) and all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (("attn.to_w",), "no linear layer of the base is 'attn.to_w' (did you mean 'attn.to_"),
        ("atention", "(did you mean 'attention'?)"),
        (("to_q", "nothing_like_it"), "no linear layer of the base is 'nothing_like_it'; there are: "),
        (r"proj_ou.", "'proj_ou.' is the output layer, which is never adapted"),
        ("(", "'(' is neither a name nor a regex"),
        ((), "model.targets is empty"),
        (("norm_q",), "no linear layer of the base is 'norm_q'"),  # it exists, and has nothing to adapt
    ],
)
def test_targets_that_choose_nothing_are_told_with_what_there_is(spec: str | tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        targets(transformer(), spec)
    assert says in str(error.value)


def test_all_wrong_targets_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        targets(transformer(), ("one", "to_q", "two"))
    assert len(error.value.problems) == 2


# ---- what an adapter changes -----------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_stays_in_eval_mode() -> None:
    made = base()
    expected = velocity(made)
    adapt(made, 4, 4.0, 0.5)
    assert torch.equal(velocity(made), expected)
    assert not any(module.training for module in made.modules())


def test_an_adapted_layer_adds_alpha_over_rank_b_a_x() -> None:
    made = adapted(rank=4, alpha=6.0)
    layer = made.transformer.get_submodule("base_model.model.x_embedder")
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(4))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    plain = transformer().x_embedder
    torch.testing.assert_close(layer(x), plain(x) + 6.0 / 4 * (x @ a.T) @ b.T)


def test_base_only_is_the_base_exactly_and_leaves_everything_as_it_was() -> None:
    expected = velocity(base())
    made = adapted()
    before = velocity(made)
    flags = [parameter.requires_grad for parameter in made.parameters()]
    assert not torch.allclose(before, expected, atol=1e-4)
    with base_only(made):
        assert torch.equal(velocity(made), expected)
    assert torch.equal(velocity(made), before)
    assert [parameter.requires_grad for parameter in made.parameters()] == flags
    made.requires_grad_(False)
    with pytest.raises(RuntimeError, match="within"), base_only(made):
        raise RuntimeError("within")
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert torch.equal(velocity(made), before)
    plain = base()
    with base_only(plain):
        assert torch.equal(velocity(plain), expected)


def test_gradient_checkpointing_leaves_the_gradients_as_they_are() -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        made = base()
        torch.manual_seed(7)
        adapt(made, 4, 4.0, 0.0, "all-linear", checkpointing)
        perturbed(made)
        saved: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = made.decode(Z - 0.25 * made.velocity(Z, T)).square().mean()
        kept.append(sum(saved))
        loss.backward()
        return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

    kept: list[int] = []
    plain, checkpointed = gradients(False), gradients(True)
    assert kept[1] < 0.5 * kept[0]  # activations are not kept: it is really on
    assert plain.keys() == checkpointed.keys() and len(plain) > 20
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_the_adapter_is_float32_on_a_bf16_base_and_learns() -> None:
    made = base(torch.bfloat16)
    adapt(made, 4, 4.0)
    formats = {"lora_" in name: set() for name, _ in made.transformer.named_parameters()}
    for name, parameter in made.transformer.named_parameters():
        formats["lora_" in name].add(parameter.dtype)
    assert formats == {True: {torch.float32}, False: {torch.bfloat16}}
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    target = torch.randn(Z.shape, generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(12):
        loss = (made.velocity(Z, T) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_saved_adapter_is_two_files_and_equal_adapters_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_adapter(adapted(), tmp_path / name)
    files = ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with safe_open(tmp_path / "a" / files[1], "pt") as stored:
        assert all("lora_" in name for name in stored.keys())  # noqa: SIM118  it is no dictionary
    stored = json.loads((tmp_path / "a" / files[0]).read_text())
    assert stored["base_model_name_or_path"] == "tiny"
    assert stored["target_modules"] == sorted(stored["target_modules"])  # PEFT's set has another order each time
    assert list(stored) == sorted(stored)


def test_peft_opens_a_saved_adapter_unchanged(tmp_path: Path) -> None:
    made = adapted()
    save_adapter(made, tmp_path)
    opened = base()
    opened.transformer = PeftModel.from_pretrained(opened.transformer, str(tmp_path))
    assert torch.equal(velocity(opened), velocity(made))


def test_diffusers_opens_a_saved_adapter_unchanged_with_its_alpha(tmp_path: Path) -> None:
    made = adapted(rank=4, alpha=10.0)
    save_adapter(made, tmp_path)
    opened = base()
    plain = velocity(opened)
    opened.transformer.load_lora_adapter(
        str(tmp_path), weight_name="adapter_model.safetensors", prefix="base_model.model"
    )
    assert not torch.allclose(velocity(opened), plain, atol=1e-4)
    torch.testing.assert_close(velocity(opened), velocity(made), atol=1e-6, rtol=1e-5)


def test_a_saved_adapter_loads_in_place_and_onto_a_bare_base(tmp_path: Path) -> None:
    made = adapted()
    save_adapter(made, tmp_path)
    other = base()
    adapt(other, 4, 8.0)
    known = {name: id(parameter) for name, parameter in other.named_parameters()}
    load_adapter(other, tmp_path)
    assert torch.equal(velocity(other), velocity(made))
    assert {name: id(parameter) for name, parameter in other.named_parameters()} == known
    assert any(parameter.requires_grad for parameter in other.parameters())
    bare = base()
    load_adapter(bare, tmp_path)
    assert is_adapted(bare) and torch.equal(velocity(bare), velocity(made))
    assert not any(parameter.requires_grad for parameter in bare.parameters())
    assert not any(module.training for module in bare.modules())


def test_an_adapter_that_peft_made_by_ends_of_names_loads(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    other = get_peft_model(transformer(), LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "proj_mlp"]))
    other.save_pretrained(str(tmp_path))
    bare = base()
    load_adapter(bare, tmp_path)
    made = base()
    adapt(made, 3, 6.0, 0.0, ("to_q", "proj_mlp"))
    load_adapter(made, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    for each in (bare, made):
        name = "base_model.model.single_transformer_blocks.1.proj_mlp.lora_A"
        assert torch.equal(each.transformer.state_dict()[f"{name}.default.weight"], stored[f"{name}.weight"])


def refused(base: Base, folder: Path) -> str:
    expected = velocity(base)
    with pytest.raises(CheckpointError) as error:
        load_adapter(base, folder)
    assert torch.equal(velocity(base), expected)  # nothing half loaded
    return str(error.value)


def test_another_rank_is_refused_naming_both(tmp_path: Path) -> None:
    save_adapter(adapted(rank=4, alpha=8.0), tmp_path)
    message = refused(adapted(rank=6, alpha=8.0), tmp_path)
    assert "has rank 4 and this run has rank 6; set model.rank = 4 and model.alpha = 8" in message


def test_another_scale_is_refused_naming_both(tmp_path: Path) -> None:
    save_adapter(adapted(rank=4, alpha=8.0), tmp_path)
    assert "is scaled by 2 and this run's by 1; set model.alpha = 8" in refused(adapted(rank=4, alpha=4.0), tmp_path)


def test_other_layers_are_refused_and_listed(tmp_path: Path) -> None:
    save_adapter(adapted(spec=("to_q",)), tmp_path)
    message = refused(adapted(spec=("to_q", "to_k")), tmp_path)
    assert "lacks 3 layers: single_transformer_blocks.0.attn.to_k" in message
    message = refused(adapted(spec=(r"transformer_blocks.0.attn.to_q",)), tmp_path)
    assert "has, and the run lacks, 2 layers: single_transformer_blocks.0.attn.to_q" in message


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path)
    wide = new_transformer(new_vae(), heads=2, double_blocks=1, single_blocks=2, prompt_channels=4)
    nn.init.normal_(wide.proj_out.weight)
    given = dict(vae=new_vae(), prompt_embeds=torch.zeros(1, 4), pooled=torch.zeros(4), name="wide")
    other = Base.of(transformer=wide, **given)
    assert "it is of another base" in refused(other, tmp_path)
    assert not is_adapted(other)
    fewer = new_transformer(new_vae(), heads=1, double_blocks=1, single_blocks=1, prompt_channels=4)
    nn.init.normal_(fewer.proj_out.weight)
    message = refused(Base.of(transformer=fewer, **given), tmp_path)
    assert "single_transformer_blocks.1" in message


def test_a_missing_damaged_or_foreign_adapter_is_refused(tmp_path: Path) -> None:
    assert "holds no adapter_config.json" in refused(base(), tmp_path)
    save_adapter(adapted(), tmp_path / "whole")

    def changed(name: str, **values: object) -> Path:
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return tmp_path / name

    assert "is a LOHA of PEFT" in refused(base(), changed("loha", peft_type="LOHA"))
    assert "is no plain LoRA: use_dora = True" in refused(base(), changed("dora", use_dora=True))
    assert "is damaged" in refused(base(), changed("number", r="many"))
    cut = changed("cut")
    (cut / "adapter_model.safetensors").write_bytes((cut / "adapter_model.safetensors").read_bytes()[:500])
    assert "missing or damaged" in refused(base(), cut)
    (cut / "adapter_model.safetensors").unlink()
    assert "missing or damaged" in refused(base(), cut)
    (cut / "adapter_config.json").write_text("{")
    assert "is damaged" in refused(base(), cut)
    less = changed("less")
    tensors = load_file(less / "adapter_model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if "x_embedder" not in name}, less / "adapter_model.safetensors"
    )
    assert "lacks 1 layers: x_embedder" in refused(adapted(), less)
