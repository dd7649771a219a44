# The parts of the test cluster, in the order in which they are started. Each may be called again: what runs is left alone.
# Source common.sh, setup.sh, seaweedfs.sh, kube.sh, cluster_build.sh and cluster_space.sh first.

kubeconfig=$cluster/kubeconfig
export KUBECONFIG=$kubeconfig KUBECACHEDIR=$cluster/kubectl-cache
PATH=$kube_home/bin:$cluster_node/bin:$cluster_node/debian/usr/bin:$cluster_node/debian/usr/sbin:$cluster_csi/bin:$cluster_velero/bin:$PATH
busybox_image=wherry.test/busybox:1
driver=csi.test.wherry.io
driver_socket=/var/lib/kubelet/plugins/$driver/csi.sock
driver_data=$state/csi
bucket=velero s3_key=wherry-test s3_secret=wherry-test-secret s3_url=http://$node_ip:8333

# Who reads what they print may have enough (`head`, `grep -q`) before all of it is written: that is no failure of theirs.
unless_closed() { "$@" || { local status=$? && [ $status = 141 ]; } || return $status; }
kubectl() { unless_closed inside kubectl "$@"; }
ctr() { inside ctr --namespace k8s.io "$@"; }

# kubeconfig_of TOKEN: for a client in the space.
kubeconfig_of() {
  cat <<E2
apiVersion: v1
kind: Config
current-context: wherry
clusters: [{name: wherry, cluster: {server: "https://$service_ip:443", certificate-authority: $state/tls/apiserver.crt}}]
users: [{name: wherry, user: {token: $1}}]
contexts: [{name: wherry, context: {cluster: wherry, user: wherry}}]
E2
}

# etcd, API server, controller manager, scheduler. Nobody outside of the space reaches them, so tokens that everybody could
# know are good enough; service accounts get real ones, and RBAC is in force.
control_plane_up() {
  mkdir -p "$state/tls"
  [ -e "$state/accounts.key" ] || openssl genrsa -out "$state/accounts.key" 2048 2>/dev/null
  printf '%s\n' admin-token,admin,admin,system:masters "node-token,system:node:$node,node,system:nodes" >"$state/tokens"
  kubeconfig_of admin-token >"$kubeconfig"
  kubeconfig_of node-token >"$state/kubelet.kubeconfig"
  # Of service accounts every request is written down, of others nothing.
  echo '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules":
    [{"level": "Metadata", "userGroups": ["system:serviceaccounts:velero"]}, {"level": "None"}]}' >"$state/audit.json"
  # The data of etcd goes with the cluster: it need not wait for the disk.
  daemon etcd etcd --data-dir="$state/etcd" --unsafe-no-fsync --log-level=warn
  daemon kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=443 --advertise-address=$node_ip \
    --service-cluster-ip-range=10.96.0.0/24 --cert-dir="$state/tls" --token-auth-file="$state/tokens" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$state/accounts.key" \
    --service-account-signing-key-file="$state/accounts.key" --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement \
    --kubelet-preferred-address-types=InternalIP --audit-policy-file="$state/audit.json" --audit-log-path="$log/audit.log"
  wait_for "API server" 120 kubectl get namespace default
  daemon kube-controller-manager kube-controller-manager --kubeconfig="$kubeconfig" --root-ca-file="$state/tls/apiserver.crt" \
    --service-account-private-key-file="$state/accounts.key" --use-service-account-credentials --leader-elect=false --secure-port=0
  daemon kube-scheduler kube-scheduler --kubeconfig="$kubeconfig" --leader-elect=false --secure-port=0
  kubectl apply --server-side --filename "$kube_home/crds" --filename "$cluster_csi/crds" >/dev/null
}

# containerd and kubelet, with images that need no registry.
node_up() {
  mkdir -p "$state/cni.d" "$log/pods" "$state/images"
  cat >"$state/containerd.toml" <<E2
version = 2
root = "$state/containerd"
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$busybox_image"
  disable_apparmor = true
  # A machine without CAP_SYS_RESOURCE cannot lower oom_score_adj.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$cluster_node/debian/usr/lib/cni"
  conf_dir = "$state/cni.d"
E2
  cat >"$state/cni.d/wherry.conflist" <<E2
{"cniVersion": "0.4.0", "name": "wherry", "plugins": [{"type": "bridge", "bridge": "pods0", "isGateway": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
E2
  cat >"$state/kubelet.yaml" <<E2
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
# A disk that the machine shares with others may be full; what is tested here is not what a kubelet does then.
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%", memory.available: "100Mi"}
imageGCHighThresholdPercent: 100
podLogsDir: $log/pods
resolvConf: ""
# Nobody answers there: pods know addresses, not names. Without it each pod gets an Event that says so.
clusterDNS: [$service_ip]
syncFrequency: 10s
E2
  daemon containerd containerd --config="$state/containerd.toml"
  wait_for "containerd" 30 ctr version
  busybox_build
  # The kubelet runs mount and mkfs of the machine.
  daemon kubelet kubelet --config="$state/kubelet.yaml" --kubeconfig="$state/kubelet.kubeconfig" --hostname-override=$node \
    --node-ip=$node_ip --cert-dir="$state/kubelet-tls"
  wait_for "node $node" 60 kubectl wait --for=condition=Ready "node/$node" --timeout=1s
  wait_for "service accounts" 60 kubectl get serviceaccount default
}

# One static executable: what pods of tests run, what Velero copies its plugins with, and what holds a pod's namespaces.
busybox_build() {
  local name links=()
  [ ! -e "$state/images/busybox" ] || return 0
  for name in $("$cluster_node/debian/bin/busybox" --list); do [ "$name" = busybox ] || links+=(--link "/bin/$name:busybox"); done
  image_load busybox $busybox_image --file "$cluster_node/debian/bin/busybox:/bin/busybox" "${links[@]}" \
    --env PATH=/bin --entrypoint /bin/sleep 1000000000
}

# image_load MARK NAME ARGUMENT...: of oci_image.py.
image_load() {
  local mark=$1 tar=$state/images/$1.tar
  shift
  "$top/scripts/lib/oci_image.py" "$tar" "$@" >"$log/image-$mark.log"
  image_import "$tar"
  touch "$state/images/$mark"
}

# image_import TAR: of an OCI layout.
image_import() {
  ctr images import "$1" >"$log/import.log" 2>&1 || die "containerd does not take $1: see $log/import.log"
}

# s3_users: whom the S3 server knows, from its next start on.
s3_users() {
  echo '{"identities": [{"name": "test", "actions": ["Admin"], "credentials": [{"accessKey": "'"$s3_key"'", "secretKey": "'"$s3_secret"'"}]}]}' >"$state/s3-users.json"
}

# The S3 server, with the bucket that Velero has.
s3_up() {
  mkdir -p "$state/s3"
  [ "$(cat "$state/s3-server" 2>/dev/null || echo "$s3")" = "$s3" ] || die "the cluster that is up has $(cat "$state/s3-server"): scripts/cluster down first, or --s3"
  echo "$s3" >"$state/s3-server"
  "s3_up_$s3"
  wait_for "S3 server" 60 s3_bucket
}

s3_up_seaweedfs() {
  s3_users
  daemon s3 "$WHERRY_TEST_SEAWEED" server -ip=127.0.0.1 -ip.bind=0.0.0.0 -s3 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 \
    -dir="$state/s3" -s3.config="$state/s3-users.json" -master.telemetry=false -master.volumeSizeLimitMB=1024 -volume.max=100 \
    -filer.localSocket="$state/filer.sock" -s3.localSocket="$state/s3.sock"
}

# A folder is the bucket, a file each object.
s3_up_versitygw() {
  mkdir -p "$state/s3/$bucket"
  daemon s3 env ROOT_ACCESS_KEY=$s3_key ROOT_SECRET_KEY=$s3_secret "$cluster_s3/bin/versitygw" --port=:8333 --quiet --keep-alive posix "$state/s3"
}

s3_bucket() { s3_ask --show-error --request PUT --data created "$s3_url/$bucket/created" && s3_ask --request DELETE "$s3_url/$bucket/created"; }

# s3_ask ARGUMENT...: curl as the one user whom the S3 server knows.
s3_ask() {
  inside curl --silent --fail --max-time 20 --aws-sigv4 aws:amz:us-east-1:s3 --user "$s3_key:$s3_secret" \
    --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@"
}

# csi_up BINARY: the test driver, and what stands between it and Kubernetes.
csi_up() {
  mkdir -p "/var/lib/kubelet" "$driver_data"
  daemon csi "$1" serve --data-dir "$driver_data" --node $node --socket $driver_socket --registration-dir /var/lib/kubelet/plugins_registry
  wait_for "CSI driver" 30 inside test -S $driver_socket
  kubectl apply --filename "$top/tests/e2e/manifests/classes.yaml" >/dev/null
  daemon csi-provisioner csi-provisioner --kubeconfig="$kubeconfig" --csi-address=$driver_socket --feature-gates=Topology=true --default-fstype=ext4
  daemon csi-snapshotter csi-snapshotter --kubeconfig="$kubeconfig" --csi-address=$driver_socket
  daemon snapshot-controller snapshot-controller --kubeconfig="$kubeconfig"
  daemon csi-snapshot-metadata csi-snapshot-metadata --kubeconfig="$kubeconfig" --csi-address=$driver_socket --port=50051 \
    --tls-cert="$state/tls/apiserver.crt" --tls-key="$state/tls/apiserver.key"
  kubectl apply --filename - >/dev/null <<E2
apiVersion: cbt.storage.k8s.io/v1alpha1
kind: SnapshotMetadataService
metadata: {name: $driver}
spec: {address: "$node_ip:50051", audience: $driver, caCert: $(base64 --wrap=0 "$state/tls/apiserver.crt")}
E2
  wait_for "registration of the CSI driver" 60 csi_is_registered
}

csi_is_registered() { kubectl get csinode $node --output "jsonpath={.spec.drivers[*].name}" | grep -qw $driver; }

# velero_up ARGUMENT...: of `velero install`.
velero_up() {
  [ -e "$state/images/velero" ] || image_load velero "wherry.test/velero:$velero_version" --file "$cluster_velero/bin/velero:/velero" \
    --env HOME=/tmp --entrypoint /velero
  [ -e "$state/images/plugin" ] || image_load plugin "wherry.test/velero-plugin-for-aws:pinned" \
    --file "$cluster_velero/bin/velero-plugin-for-aws:/plugins/velero-plugin-for-aws" --file "$cluster_node/debian/bin/busybox:/bin/cp" \
    --entrypoint /bin/cp /plugins/velero-plugin-for-aws /target/
  printf '[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n' $s3_key $s3_secret >"$state/s3-credentials"
  inside velero install --provider aws --image "wherry.test/velero:$velero_version" --plugins wherry.test/velero-plugin-for-aws:pinned \
    --bucket $bucket --secret-file "$state/s3-credentials" --features EnableCSI --use-volume-snapshots=false \
    --backup-location-config "region=us-east-1,s3ForcePathStyle=true,s3Url=$s3_url" \
    --velero-pod-cpu-request 0 --velero-pod-mem-request 0 --velero-pod-cpu-limit 0 --velero-pod-mem-limit 0 \
    --node-agent-pod-cpu-request 0 --node-agent-pod-mem-request 0 --node-agent-pod-cpu-limit 0 --node-agent-pod-mem-limit 0 "$@" \
    >"$log/velero-install.log" 2>&1 || die "velero install: see $log/velero-install.log"
  velero_hurries || kubectl --namespace velero patch deployment velero --type=json --patch '[
    {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--item-operation-sync-frequency=2s"},
    {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--resource-timeout=30s"}]' >/dev/null
  kubectl --namespace velero rollout status deployment/velero --timeout=120s >/dev/null
  wait_for "Velero" 120 kubectl --namespace velero wait --for=condition=Available deployment/velero --timeout=1s
  wait_for "Velero's backup location" 120 kubectl --namespace velero wait --for=jsonpath='{.status.phase}'=Available backupstoragelocation/default --timeout=1s
}

# Its defaults are 10 s and 10 min: for so long one restore whose PVCs stay unbound keeps all later ones from ending.
velero_hurries() {
  kubectl --namespace velero get deployment velero --output 'jsonpath={.spec.template.spec.containers[0].args}' | grep -q resource-timeout=30s
}
