"""Programs that stand for ssh and adb: the machine, or the phone, behind them is this one."""
import sys
from pathlib import Path

PHONE_FOLDER = "/data/local/tmp"
# Like adb it joins the words after `shell` for a shell, and speaks of its daemon on stderr.
ADB = """#!/bin/sh
printf '%s\\n' "$*" >> "{calls}"
echo '* daemon started successfully' >&2
[ "$1" = -s ] && shift 2
case "$1" in
  push) cp "$2" "$(printf %s "$3" | sed 's#{there}#{phone}#g')" ;;
  shell) shift; exec sh -c "$(printf %s "$*" | sed 's#{there}#{phone}#g')" ;;
esac
"""
SSH = """#!/bin/sh
printf '%s\\n' "$*" >> "{calls}"
while [ "$1" != "--" ]; do shift; done
cd "{home}" && exec sh -c "$3"
"""
# benchmark_model: a microsecond for each byte of the model, after warming up for longer.
BY_SIZE = """#!/bin/sh
for argument in "$@"; do case "$argument" in --graph=*) model="${argument#--graph=}" ;; esac; done
size=$(wc -c < "$model") || exit 1
echo "count=1 curr=9 avg=999999 std=0"
echo "count=10 first=5 curr=5 min=5 max=5 avg=$size std=3"
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def write_ssh(folder: Path, home: Path) -> Path:
    """`folder`/ssh, whose machine has the home `home` and this interpreter as python3; the file of its calls."""
    home.mkdir(parents=True)
    write_program(folder / "ssh", SSH.format(calls=folder / "ssh.calls", home=home))
    write_program(folder / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return folder / "ssh.calls"


def write_adb(folder: Path, phone: Path, program: str = BY_SIZE, name: str = "benchmark_model_plus_flex_r27") -> Path:
    """`folder`/adb, whose phone has `phone` as /data/local/tmp and `program` there as `name`; the file of its calls."""
    write_program(phone / name, program)
    for tool, text in (("adb", ADB.format(calls=folder / "adb.calls", there=PHONE_FOLDER, phone=phone)),
                       ("getprop", "#!/bin/sh\necho Pixel 4\n"), ("taskset", '#!/bin/sh\nshift\nexec "$@"\n')):
        write_program(folder / tool, text)
    return folder / "adb.calls"
