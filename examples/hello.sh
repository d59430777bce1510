#!/usr/bin/env bash
# Deploys hello.yaml on the running cluster, waits, and fetches one answer through the Service's cluster IP.
set -euo pipefail
dir=$(dirname "$0")
k="${SKIFF:-skiff} kubectl"

echo
$k apply -f "$dir/hello.yaml"
$k rollout status deployment/hello --timeout=120s
echo
$k get nodes -o wide
echo
$k get pods -l app=hello -o wide
echo
$k get service hello
ip=$($k get service hello -o jsonpath='{.spec.clusterIP}')
echo
echo "\$ curl http://$ip/"
curl -fsS --retry 10 --retry-delay 1 --retry-connrefused --max-time 10 "http://$ip/"
cat <<'NEXT'

Next:
  bin/skiff kubectl get all -A                      what runs
  bin/skiff kubectl scale deployment hello --replicas=5
  bin/skiff kubectl logs -l app=hello
  bin/skiff status                                  components, sockets, logs
  make stop                                         stop it (bin/skiff down --purge removes every file)
NEXT
