#!/usr/bin/env bash
# A cluster of hosts on this machine, to try and to test what otherwise takes several: each host is a network namespace of its own
# with a link to a common bridge, over which this machine reaches the coordinator. Control and data plane are closed to
# strangers, as they would be on a real network. Processes that die are started again, as systemd would.
#
#   deploy/local-cluster.sh up [--nodes 3] [--devices 2] [--model DIR] [--prompt NAME] [--delay 0] [--rate 0] [--loss 0]
#   deploy/local-cluster.sh status
#   deploy/local-cluster.sh host-down HOST | host-up HOST
#   deploy/local-cluster.sh down
#
# host-down takes one host (n0, coordinator) away at once, with its network and all that runs there; host-up brings it back.
# --delay (such as 50ms), --rate (such as 100mbit; 0: unlimited) and --loss (percent) are those of whatever leaves a host, so that
# they meet what travels between two hosts once in each direction. tc's netem makes them, or deploy/slow_link.py where the kernel
# has none. --memory is each device's (1GiB), --data-ports each node's (any), --precision the model's (bf16).
# --settings FILE is YAML that is added to the configuration. --name tells clusters apart ("local"), --subnet
# their networks (10.91.0). BATON names the program (build/release/baton), BATON_CLUSTER_DIR where configuration, certificates, journal and logs are kept (/var/tmp/baton-cluster-NAME).
# Needs root. Ends with 2 where a command line is wrong or this machine permits no network namespaces.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { echo "local-cluster: $*" >&2; }
refuse() {
  say "$*"
  exit 2
}

command=${1:-}
[[ $# -eq 0 ]] || shift
which=
if [[ $command == host-* && $# -gt 0 ]]; then
  which=$1
  shift
  [[ $which =~ ^(coordinator|n[0-9]{1,2})$ ]] || refuse "$command wants a host: coordinator, n0, n1, …"
fi
nodes=3 devices=2 model=$root/models/needle prompt=needle delay=0 rate=0 loss=0 memory=1GiB data_ports=any name=local subnet=10.91.0 settings="" precision=bf16
ready_s=120
while [[ $# -gt 0 ]]; do
  case $1 in
    --nodes | --devices | --model | --prompt | --delay | --rate | --loss | --memory | --data-ports | --name | --subnet | --settings | --precision)
      [[ $# -ge 2 ]] || refuse "$1 wants a value"
      option=${1#--}
      printf -v "${option//-/_}" '%s' "$2"
      shift 2
      ;;
    *) refuse "unknown option $1; the head of $0 has them all" ;;
  esac
done
[[ $nodes =~ ^[1-9][0-9]?$ && $devices =~ ^[1-9][0-9]?$ ]] || refuse "--nodes and --devices are whole numbers from 1"
[[ $name =~ ^[a-z0-9]{1,8}$ ]] || refuse "--name has 1 to 8 lower-case letters and digits"
[[ $delay =~ ^(0|[0-9.]+(us|ms|s))$ ]] || refuse "--delay is a time with its unit, such as 50ms"
[[ $rate =~ ^(0|[0-9.]+[kmg]?bit)$ ]] || refuse "--rate is 0 or bits per second with their unit, such as 100mbit"
[[ $loss =~ ^[0-9]{1,2}(\.[0-9]+)?$ ]] || refuse "--loss is in percent, from 0 to below 100, such as 1"
[[ $subnet =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || refuse "--subnet is the first three numbers of addresses, such as 10.91.0"

program=${BATON:-$root/build/release/baton}
folder=${BATON_CLUSTER_DIR:-/var/tmp/baton-cluster-$name}
config=$folder/cluster.yaml
bridge=bt-$name
prefix=baton-$name-
port=4711

hosts() { ip netns list 2>/dev/null | awk -v p="$prefix" 'index($1, p) == 1 { print $1 }'; }

number_of() {
  case $1 in
    coordinator) echo 1 ;;
    *) echo $((${1#n} + 11)) ;;
  esac
}

# All processes of one host, at once.
kill_host() {
  local pids
  for _ in 1 2 3; do
    pids=$(ip netns pids "$1" 2>/dev/null || true)
    # shellcheck disable=SC2086
    [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
  done
}

# Everything that a cluster of this name has, whatever state it is in.
down() {
  local host
  for host in $(hosts); do kill_host "$host"; done
  for host in $(hosts); do
    for _ in {1..100}; do
      [[ -n $(ip netns pids "$host" 2>/dev/null || true) ]] || break
      sleep 0.05
    done
    ip netns delete "$host" 2>/dev/null || true
  done
  ip -o link show 2>/dev/null | awk -F'[ :@]+' -v p="$bridge-" 'index($2, p) == 1 { print $2 }' |
    while read -r link; do ip link delete "$link" 2>/dev/null || true; done
  ip link delete "$bridge" 2>/dev/null || true
  rm -rf "$folder"
}

check_permitted() {
  [[ $EUID -eq 0 ]] || refuse "run as root: only root may make network namespaces"
  command -v ip >/dev/null || refuse "ip is missing: apt-get install iproute2"
  local probe=${prefix}probe
  if ! ip netns add "$probe" 2>/dev/null; then
    refuse "this machine permits no network namespaces (ip netns add fails)"
  fi
  ip netns delete "$probe"
}

# add_host NAME NUMBER: a namespace with the address SUBNET.NUMBER.
add_host() {
  local host=$prefix$1 link=$bridge-$2
  ip netns add "$host"
  ip link add "$link" type veth peer name eth0 netns "$host"
  ip link set "$link" master "$bridge" up
  ip -n "$host" link set lo up
  ip -n "$host" address add "$subnet.$2/24" dev eth0
  ip -n "$host" link set eth0 up
  slow_down "$host"
}

# slow_down HOST: what leaves it is late, paced and lossy, as the options say.
slow_down() {
  local shape=()
  [[ $delay =~ ^[0.]+(ms|s|us)?$ ]] || shape+=(delay "$delay")
  [[ $loss =~ ^[0.]+$ ]] || shape+=(loss "$loss%")
  [[ $rate =~ ^0 ]] || shape+=(rate "$rate")
  [[ ${#shape[@]} -gt 0 ]] || return 0
  if ip netns exec "$1" tc qdisc add dev eth0 root netem "${shape[@]}" limit 100000 2>/dev/null; then return 0; fi
  local log=$folder/log/link-${1#"$prefix"}.log
  setsid ip netns exec "$1" "$root/deploy/slow_link.py" eth0 --delay "$delay" --rate "$rate" --loss "$loss" \
    >"$log" 2>&1 </dev/null &
  disown
  for _ in {1..100}; do
    if grep -qs '^ready$' "$log"; then return 0; fi
    sleep 0.05
  done
  cat "$log" >&2
  trap - ERR
  down
  refuse "this machine can make no slow links; leave --delay, --rate and --loss away"
}

# supervise HOST LOG COMMAND…: starts it on that host, and again a second after it has ended.
supervise() {
  local host=$prefix$1 log=$2
  shift 2
  # shellcheck disable=SC2016
  setsid ip netns exec "$host" bash -c '
    trap "" HUP
    while :; do
      "$@"
      echo "local-cluster: ended with $?; started again in a second"
      sleep 1
    done' supervisor "$@" >>"$log" 2>&1 </dev/null &
  disown
}

write_config() {
  {
    echo "# Written by deploy/local-cluster.sh: every process and every command reads this file."
    echo "model: {directory: \"$(realpath "$model")\", prompt: $prompt, precision: $precision}"
    echo "job: {strategy: apb, ranks: $((nodes * devices))}"
    echo "processes: per_device"
    echo "coordinator: {address: $subnet.1, port: $port, journal: \"$folder/journal\"}"
    echo "security: {certificates: \"$folder/certificates\"}"
    echo "nodes:"
    local n d
    for ((n = 0; n < nodes; ++n)); do
      echo "  - name: n$n"
      echo "    address: $subnet.$((n + 11))"
      [[ $data_ports == any ]] || echo "    data_ports: $data_ports"
      echo "    devices:"
      for ((d = 0; d < devices; ++d)); do echo "      - {name: cpu$d, threads: 1, memory: $memory}"; done
    done
    [[ -z $settings ]] || cat "$settings"
  } >"$config"
}

# start HOST: what runs there.
start() {
  case $1 in
    coordinator) supervise coordinator "$folder/log/coordinator.log" "$program" coordinator --config "$config" ;;
    *) supervise "$1" "$folder/log/$1.log" "$program" node --config "$config" --name "$1" ;;
  esac
}

host_down() {
  ip netns list | grep -q "^$prefix$which\\b" || refuse "no host $which is up"
  # Its network goes first, as when a cable is pulled.
  ip link delete "$bridge-$(number_of "$which")" 2>/dev/null || true
  kill_host "$prefix$which"
  for _ in {1..100}; do
    [[ -n $(ip netns pids "$prefix$which" 2>/dev/null || true) ]] || break
    sleep 0.02
  done
  ip netns delete "$prefix$which"
}

host_up() {
  [[ -f $config ]] || refuse "no cluster called $name is up"
  add_host "$which" "$(number_of "$which")"
  start "$which"
}

up() {
  [[ -x $program ]] || refuse "$program is not there; build it, or name another one in BATON"
  [[ -f $model/config.json ]] || refuse "--model $model has no config.json"
  [[ -z $(hosts) ]] || refuse "a cluster called $name is up already, or was not taken down: $0 down"
  trap 'say "it did not come up; everything is taken down again"; down' ERR
  mkdir -p "$folder/log"
  write_config
  "$program" certificates "$folder/certificates" --config "$config" >"$folder/log/certificates.log"
  ip link add "$bridge" type bridge
  ip address add "$subnet.254/24" dev "$bridge"
  ip link set "$bridge" up
  add_host coordinator 1
  local n
  for ((n = 0; n < nodes; ++n)); do add_host "n$n" $((n + 11)); done
  start coordinator
  for ((n = 0; n < nodes; ++n)); do start "n$n"; done
  local deadline=$((SECONDS + ready_s))
  while ((SECONDS < deadline)); do
    if is_ready; then
      echo "config: $config"
      return
    fi
    sleep 0.1
  done
  say "it was not ready within $ready_s s; the ends of its logs:"
  tail -n 5 "$folder"/log/*.log >&2
  trap - ERR
  down
  exit 1
}

is_ready() {
  "$program" status --config "$config" --json 2>/dev/null | python3 -c '
import json, sys
try: nodes = json.load(sys.stdin)["nodes"]
except ValueError: sys.exit(1)
states = [n["state"] for n in nodes] + [d["state"] for n in nodes for d in n["devices"]]
sys.exit(0 if states and "down" not in states else 1)'
}

status() {
  local host
  [[ -n $(hosts) ]] || {
    echo "no cluster called $name is up"
    exit 1
  }
  for host in $(hosts); do
    echo "$host: $(ip -n "$host" -4 -o address show dev eth0 | awk '{ print $4 }'), processes $(ip netns pids "$host" | xargs)"
  done
  "$program" status --config "$config"
  echo "config: $config"
}

case $command in
  up)
    check_permitted
    up
    ;;
  down)
    check_permitted
    down
    ;;
  status) status ;;
  host-down | host-up)
    check_permitted
    "${command/-/_}"
    ;;
  *) refuse "say up, down, status, host-down or host-up; the head of $0 explains" ;;
esac
