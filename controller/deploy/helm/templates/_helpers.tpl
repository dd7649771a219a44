{{- /* The name of an object of the cluster: two installs, in two namespaces, have their own. */ -}}
{{- define "wherry.of-cluster" -}}
{{- if eq .namespace "velero" }}{{ .name }}{{ else }}{{ printf "%s-%s" .name .namespace }}{{ end -}}
{{- end -}}
{{- /* Gives what is of the cluster, and what names it, that name. */ -}}
{{- define "wherry.cluster" -}}
{{- $object := .object -}}
{{- if not $object.metadata.namespace }}{{ $_ := set $object.metadata "name" (include "wherry.of-cluster" (dict "name" $object.metadata.name "namespace" .namespace)) }}{{ end -}}
{{- if $object.roleRef }}
{{- if and (eq $object.roleRef.kind "ClusterRole") (hasPrefix "wherry" $object.roleRef.name) }}{{ $_ := set $object.roleRef "name" (include "wherry.of-cluster" (dict "name" $object.roleRef.name "namespace" .namespace)) }}{{ end -}}
{{- end }}
{{- if eq $object.kind "DaemonSet" }}
{{- $pod := $object.spec.template.spec }}
{{- $_ := set $pod "priorityClassName" (include "wherry.of-cluster" (dict "name" $pod.priorityClassName "namespace" .namespace)) }}
{{- /* A folder of the node is of the cluster, too: the agents of one install would wait for ever for the lock of the other's. */ -}}
{{- $namespace := .namespace }}
{{- range $volume := $pod.volumes }}
{{- if eq $volume.name "state" }}{{ $_ := set $volume.hostPath "path" (include "wherry.of-cluster" (dict "name" $volume.hostPath.path "namespace" $namespace)) }}{{ end }}
{{- end }}
{{- end }}
{{- $namespace := .namespace }}
{{- range $rule := $object.rules }}
{{- if has "securitycontextconstraints" $rule.resources }}
{{- $names := list }}{{ range $rule.resourceNames }}{{ $names = append $names (include "wherry.of-cluster" (dict "name" . "namespace" $namespace)) }}{{ end }}
{{- $_ := set $rule "resourceNames" $names }}
{{- end }}
{{- end }}
{{- end -}}
{{- define "wherry.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else if .Values.image.tag -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- else -}}
{{ .Values.image.repository }}
{{- end -}}
{{- end -}}
