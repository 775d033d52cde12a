"""The command line: python -m trainer JOB.json (or accelerate launch -m trainer JOB.json)."""

import argparse
import json
import sys


def main() -> int:
    """Run one job file; the exit code is 0 (done), 2 (bad job or data, nothing started) or 1 (failed)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Run one training job: init, sft, dpo or grpo. Progress lines go to standard output, logs to standard "
        "error. Exit code 0: output holds a complete checkpoint; 2: bad job file or data, nothing was started; "
        "1: failed (the last progress line says why; the same command goes on where it stopped).",
    )
    parser.add_argument("job", nargs="?", metavar="JOB.json", help="the job file")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the job file with all options")
    parser.add_argument("--show", metavar="FILE.jsonl", help="print what training would see of a data file: lengths, cuts, masks")
    parser.add_argument("--model", help="with --show: the checkpoint directory or hub id whose tokenizer and template are used")
    parser.add_argument("--max-length", type=int, default=4096, help="with --show: tokens of an example at most (default 4096)")
    parser.add_argument("--examples", type=int, default=1, help="with --show: how many examples are printed (default 1)")
    arguments = parser.parse_args()
    if arguments.show is not None:
        return _show(parser, arguments)
    if arguments.schema:
        from trainer.job import Job

        print(json.dumps(Job.model_json_schema(), indent=2))
        return 0
    if arguments.job is None:
        parser.error("which job should run? Name a job file, or --schema to see what it may hold")
    from trainer.progress import take_standard_output
    from trainer.run import run_job_file

    return run_job_file(arguments.job, take_standard_output())


def _show(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        parser.error("--show needs --model: which tokenizer and chat template should be used?")
    from trainer.errors import JobError
    from trainer.show import show

    try:
        show(arguments.show, arguments.model, arguments.max_length, arguments.examples, sys.stdout, sys.stdout.isatty())
    except (JobError, OSError) as error:
        sys.stderr.write(f"trainer: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
