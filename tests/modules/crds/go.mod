// The custom resources that tests apply to the API server come from these modules' folders config/crd.
// Nothing of them is compiled.
module wherry.io/tests/modules/crds

go 1.24.0

require (
	github.com/kubernetes-csi/external-snapshotter/client/v8 v8.4.0
	github.com/vmware-tanzu/velero v1.18.3
)
