"""Build the block tables: loss, MACs, parameters and latency of random configurations (step 3 of the pipeline).

    python eval_block_kd.py --superspace onnxw_tiny --platform onnxruntime_int8 --teacher_arch efficientnet-tiny \\
        --teacher_checkpoint_path checkpoints/block_kd/teacher_checkpoint/lsq.pth --num_samples_per_stage 60 \\
        --num_workers 0

    torchrun --nproc_per_node 4 eval_block_kd.py --superspace onnxw --platform onnx_lut \\
        --dataset_path /path/to/imagenet --debug

Writes <output_path>/<superspace>/<stage>_<block>_<window>.csv, and lut_report.png. Killed and started again it
continues after the last row written. The teacher sees every image once for many rows, --rows_per_pass at most.
"""
from pathlib import Path

from modules.block_kd.script import TEACHER_FOLDER, add_teacher_arguments, load_teacher_from
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--superspace", required=True, help="such as onnxw, mobilew, onnxw_tiny")
    parser.add_argument("--platform", required=True, help="device of the latency column, such as onnxruntime_int8")
    parser.add_argument("--checkpoint_path", default="checkpoints/block_kd",
                        help="folder of the students, <checkpoint_path>/<superspace>/<stage>_<block>/lsq.pth")
    parser.add_argument("--output_path", default="results/block_kd/lut",
                        help="/<superspace> is appended, with _fp32 in fp32 mode")
    add_teacher_arguments(parser, f"{TEACHER_FOLDER}/lsq.pth")
    parser.add_argument("--dataset", default="", help="digits, folder, CIFAR10 ...; default: that of the students")
    parser.add_argument("--dataset_path", default="", help="folder with train/ and val/, or the ILSVRC tar files")
    parser.add_argument("--valid_size", type=int, default=0,
                        help="held-out training images to measure on; default: those the students held out, or 50000")
    parser.add_argument("--augment", default="default", help="of the calibration images: default or auto_augment_tf")
    parser.add_argument("--train_batch_size", type=int, default=64, help="images per calibration batch")
    parser.add_argument("--num_calib_batches", type=int, default=4)
    parser.add_argument("--eval_batch_size", type=int, default=50)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--stage_list", nargs="*", default=[], metavar="NAME", help="such as stage3_0; default: all")
    parser.add_argument("--width_window_filter", type=int, nargs="*", default=[], metavar="WINDOW",
                        help="width windows to build; default: all")
    parser.add_argument("--num_samples_per_stage", type=int, default=1000, help="rows per file")
    parser.add_argument("--rows_per_pass", type=int, default=500, help="rows that share one pass of the teacher")
    parser.add_argument("--hw_list", type=int, nargs="+", default=[], metavar="PIXELS",
                        help="resolutions; default: those the students were trained at")
    parser.add_argument("--loss_fn", default="nsr", help="nsr (noise-to-signal ratio) or mse")
    parser.add_argument("--manual_seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true",
                        help="measure on --debug_batches batches only; the published tables were made so")
    parser.add_argument("--debug_batches", type=int, default=11)
    parser.add_argument("--fp32_mode", action="store_true", help="fp32 students (checkpoint.pth) and teacher")
    add_local_rank(parser)
    args = parser.parse_args()

    from modules.block_kd.lut.builder import LutBuilder
    from modules.block_kd.lut.job import make_job
    from modules.block_kd.lut.other_stages import write_other_stages
    from modules.block_kd.lut.report import draw_tables
    from modules.utils import dist
    from modules.utils.files import write_manifest

    device = dist.init_distributed(args.local_rank)
    folder = Path(args.output_path) / f"{args.superspace}{'_fp32' if args.fp32_mode else ''}"
    teacher = load_teacher_from(args, not args.fp32_mode, device)
    config, arguments = make_job(args, teacher, device)
    LutBuilder(config, folder, teacher, **arguments).run(
        lambda stage, done, wanted: dist.rank() == 0 and print(f"{stage}: {done} of {wanted} rows", flush=True))
    if dist.rank() == 0:
        write_other_stages(folder, args.platform, args.superspace, config.resolutions)
        write_manifest(folder / "lut_report.png", seed=args.manual_seed)
        print(f"tables: {folder}, figure: {draw_tables(folder, args.superspace, args.platform)}")
    dist.close()


if __name__ == "__main__":
    run(main)
