"""`scripts/train_demo`: runs a stage of the training, packs the assets, or draws the learning curves."""

from __future__ import annotations

from flux_tools.demo.images import fetch_package, load_images, split
from flux_tools.training.options import ROOT, STAGES, read_options


def main() -> None:
    chosen = read_options()
    vae, text, flow, guidance, control, lora = (chosen.runs / name for name in STAGES[:6])
    if chosen.stage == "pack":
        from flux_tools.training.pack import pack

        pack(chosen.runs)
        return
    if chosen.stage == "curves":
        from flux_tools.training.curves import draw_curves

        draw_curves(chosen.runs, ROOT / "docs" / "pictures" / "demo" / "training.png")
        return
    trained_on, held_out = split(load_images(fetch_package(chosen.runs)))
    print(f"{len(trained_on)} training images, {len(held_out)} held-out images", flush=True)
    if chosen.stage == "vae":
        from flux_tools.training.vae import train_vae

        train_vae(trained_on, held_out, vae)
    elif chosen.stage == "text":
        from flux_tools.training.text import train_text

        train_text(trained_on, held_out, vae, text, chosen.steps or 300)
    elif chosen.stage == "flow":
        from flux_tools.training.flow import train_flow

        train_flow(trained_on, vae, text, flow, chosen.steps or 9000, chosen.start_from)
    elif chosen.stage == "guidance":
        from flux_tools.training.guidance import train_guidance

        train_guidance(trained_on, vae, text, flow, guidance, chosen.steps or 800)
    elif chosen.stage == "control":
        from flux_tools.training.control import train_control

        train_control(trained_on, held_out, vae, text, guidance, control, chosen.steps or 3500)
    else:
        from flux_tools.training.lora import train_lora

        train_lora(trained_on, vae, text, guidance, lora, chosen.steps or 300)


if __name__ == "__main__":
    main()
