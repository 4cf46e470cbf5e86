#!/usr/bin/env python3
"""Makes a link slow and lossy where the kernel has no netem: what leaves by a device is held back, lost and paced by this program.

Usage: deploy/slow_link.py DEVICE [--delay 50ms] [--rate 100mbit] [--loss 1]     (in the network namespace of the device; as root)

Prints `ready` and works until it is killed; then nothing leaves by the device any more. `tc` hands the frames over to a tap device that
is read here, and a packet socket sends them past tc when their time has come. Like netem it sees what leaves, not what comes. At most
1000 frames wait for their turn at the rate; what comes then is lost, as on a router.
"""
import argparse, collections, fcntl, os, random, re, select, socket, struct, subprocess, sys, time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # <linux/if_tun.h>
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # <linux/if_packet.h>
frames_max = 1000
tap_name = "slow"


def seconds(text):
    found = re.fullmatch(r"([0-9.]+)(us|ms|s)", text)
    if not found and text != "0":
        raise argparse.ArgumentTypeError("a time is such as 50ms")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[found[2]] if found else 0.0


def bytes_per_s(text):
    found = re.fullmatch(r"([0-9.]+)(k|m|g)?bit", text)
    if not found and text != "0":
        raise argparse.ArgumentTypeError("a rate is such as 100mbit")
    return float(found[1]) * {None: 1, "k": 1e3, "m": 1e6, "g": 1e9}[found[2]] / 8 if found else 0


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("device")
    options.add_argument("--delay", type=seconds, default=0.0)
    options.add_argument("--rate", type=bytes_per_s, default=0.0)
    options.add_argument("--loss", type=float, default=0.0)
    given = options.parse_args()

    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", tap_name.encode(), IFF_TAP | IFF_NO_PI))
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: it hears nothing
    out.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    out.bind((given.device, 0))
    for command in (f"ip link set {tap_name} up",
                    f"tc qdisc add dev {given.device} clsact",
                    f"tc filter add dev {given.device} egress protocol all u32 match u32 0 0 action mirred egress redirect dev {tap_name}"):
        if subprocess.run(command.split()).returncode != 0:
            sys.exit(f"slow_link: this does not work here: {command}")
    print("ready", flush=True)

    chance = random.Random()
    waiting = collections.deque()  # (when it is sent on, frame), in this order
    free_at = 0.0  # when the line is free
    in_line = collections.deque()  # when frames leave the line
    wakes = select.poll()
    wakes.register(tap, select.POLLIN)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            try:
                out.send(waiting.popleft()[1])
            except OSError:
                pass  # no room below, or the device is down: lost
        wakes.poll(max(0.0, (waiting[0][0] - now) * 1000) if waiting else None)
        now = time.monotonic()
        while in_line and in_line[0] <= now:
            in_line.popleft()
        for _ in range(64):
            try:
                frame = os.read(tap, 65536)
            except BlockingIOError:
                break
            if len(in_line) >= frames_max or chance.random() * 100 < given.loss:
                continue
            if given.rate:
                free_at = max(free_at, now) + len(frame) / given.rate
                in_line.append(free_at)
            waiting.append((max(free_at, now) + given.delay, frame))


if __name__ == "__main__":
    main()
