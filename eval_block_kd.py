"""Build the block tables: loss, MACs, parameters and latency of random configurations (step 3 of the pipeline).

    python eval_block_kd.py --superspace onnxw_tiny --platform onnxruntime_int8 --teacher_arch efficientnet-tiny \\
        --teacher_checkpoint_path checkpoints/block_kd/teacher_checkpoint/lsq.pth --num_samples_per_stage 60 \\
        --num_workers 0

    torchrun --nproc_per_node 4 eval_block_kd.py --superspace onnxw --platform onnx_lut \\
        --dataset_path /path/to/imagenet --debug

Without training: --proxy replaces the loss by a training-free score (zen_nas/score.py lists them). No teacher and no
students are read.

    python eval_block_kd.py --superspace onnxw --platform onnx_lut --proxy Params --num_samples_per_stage 100

Writes <output_path>/<superspace>/<stage>_<block>_<window>.csv, and lut_report.png. After a kill, --resume continues
after the last written row; it also adds more stages, windows and rows. The teacher sees every image once for many rows,
--rows_per_pass at most.
"""
from pathlib import Path

from modules.block_kd.lut.options import TableOptions
from modules.block_kd.script import TEACHER_FOLDER, add_teacher_arguments, open_teacher
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run, say_unused
from modules.utils.settings import add_arguments, from_arguments, option

OF_STUDENTS = ("checkpoint_path", "dataset", "dataset_path", "valid_size", "augment", "num_calib_batches",
               "eval_batch_size", "loss_fn", "debug", "fp32_mode", "teacher_arch", "teacher_checkpoint_path",
               "teacher_weights")


def main(argv=None):
    parser = make_parser(__doc__)
    add_arguments(parser, TableOptions)
    option(parser, "--output_path", "results/block_kd/lut",
           "folder; /<superspace> is appended, with _fp32 in fp32 mode")
    option(parser, "--proxy", "", "training-free score in place of the loss: Zen, NASWOT, QE, Params ...; "
           "--train_batch_size images each", shown="none, distillation losses")
    add_teacher_arguments(parser, f"{TEACHER_FOLDER}/lsq.pth")
    add_run_arguments(parser, "set of tables")
    add_local_rank(parser)
    args = parser.parse_args(argv)

    from modules.block_kd.lut.builder import FILES, LutBuilder
    from modules.block_kd.lut.job import make_job
    from modules.block_kd.lut.other_stages import write_other_stages
    from modules.block_kd.lut.proxy_tables import ProxyTables, make_proxy_job
    from modules.block_kd.lut.report import draw_tables
    from modules.block_kd.lut.tables import SETTINGS_FILE
    from modules.utils import dist
    from modules.utils.files import write_manifest
    from modules.utils.runs import Run

    device = dist.init_distributed(args.local_rank)
    folder = Path(args.output_path) / f"{args.superspace}{'_fp32' if args.fp32_mode and not args.proxy else ''}"
    options = from_arguments(TableOptions, args)
    with Run(folder / SETTINGS_FILE, files=FILES, resume=args.resume, overwrite=args.overwrite,
             option="--output_path") as opened:
        if args.proxy:
            say_unused(args, parser, OF_STUDENTS, "with --proxy: no teacher, students or images are read")
            job = make_proxy_job(options, args.proxy)
            builder = ProxyTables(job, opened)
        else:
            teacher = open_teacher(args.teacher_arch, args.teacher_checkpoint_path, args.teacher_weights,
                                   not args.fp32_mode, device)
            job = make_job(options, teacher, device)
            builder = LutBuilder(job, opened, teacher)
        builder.run(
            lambda stage, done, wanted: dist.rank() == 0 and print(f"{stage}: {done} of {wanted} rows", flush=True))
        if dist.rank() == 0:
            write_other_stages(folder, args.platform, args.superspace, job.config.resolutions)
            write_manifest(folder / "lut_report.png", seed=options.manual_seed)
            print(f"tables: {folder}, figure: {draw_tables(folder, args.superspace, args.platform)}")
    dist.close()


if __name__ == "__main__":
    run(main)
