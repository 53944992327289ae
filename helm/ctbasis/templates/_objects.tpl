{{/*
The templates read the kustomize base and components of manifests/ and render them as kustomize does; nothing is written
twice. tests/release/test_chart.py compares both for every overlay. They know the fields of a kustomization that the
manifests use, and refuse others.
*/}}

{{/* JSON merge patch (RFC 7386) in place. Arguments: the map to change, the patch. */}}
{{- define "ctbasis.merge" -}}
{{- $into := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $into $key -}}
{{- else if kindIs "map" $value -}}
{{- if not (kindIs "map" (get $into $key)) -}}{{- $_ := set $into $key dict -}}{{- end -}}
{{- include "ctbasis.merge" (list (get $into $key) $value) -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Applies a patch to the object that it names. Arguments: the state, the patch, who asks for it. */}}
{{- define "ctbasis.patch" -}}
{{- $patch := index . 1 -}}
{{- $found := dict -}}
{{- range $object := (index . 0).objects -}}
{{- if and (eq $object.apiVersion $patch.apiVersion) (eq $object.kind $patch.kind) (eq $object.metadata.name $patch.metadata.name) -}}
{{- include "ctbasis.merge" (list $object $patch) -}}
{{- $_ := set $found "one" true -}}
{{- end -}}
{{- end -}}
{{- if not $found.one -}}
{{- fail (printf "%s changes the %s %s of %s, which no enabled component has: enable the component that brings it, or correct the patch" (index . 2) $patch.kind $patch.metadata.name $patch.apiVersion) -}}
{{- end -}}
{{- end -}}

{{/* Returns a kustomization as YAML, if it has no field that is not known here. Arguments: the root, its folder. */}}
{{- define "ctbasis.kustomization" -}}
{{- $file := printf "%s/kustomization.yaml" (index . 1) -}}
{{- $kustomization := (index . 0).Files.Get $file | fromYaml -}}
{{- if not $kustomization.kind -}}{{- fail (printf "%s is missing from the chart or is no kustomization" $file) -}}{{- end -}}
{{- range $field, $_ := $kustomization -}}
{{- if not (has $field (list "apiVersion" "kind" "resources" "patches" "labels" "configurations")) -}}
{{- fail (printf "%s has the field %s, which the chart does not know: extend helm/ctbasis/templates/_objects.tpl" $file $field) -}}
{{- end -}}
{{- end -}}
{{- toYaml $kustomization -}}
{{- end -}}

{{/* Adds the resources of a kustomization. Arguments: the state, the root, the folder. */}}
{{- define "ctbasis.resources" -}}
{{- $state := index . 0 -}}{{- $root := index . 1 -}}{{- $folder := index . 2 -}}
{{- $kustomization := include "ctbasis.kustomization" (list $root $folder) | fromYaml -}}
{{- $before := len $state.objects -}}
{{- range $name := $kustomization.resources -}}
{{- $path := clean (printf "%s/%s" $folder $name) -}}
{{- if hasSuffix ".yaml" $name -}}
{{- range $text := regexSplit "(?m)^---\\s*$" ($root.Files.Get $path) -1 -}}
{{- $object := fromYaml $text -}}
{{- if $object -}}
{{- if not $object.kind -}}{{- fail (printf "%s: %s" $path (toJson $object)) -}}{{- end -}}
{{- $_ := set $state "objects" (append $state.objects $object) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- include "ctbasis.resources" (list $state $root $path) -}}
{{- include "ctbasis.patches" (list $state $root $path) -}}
{{- end -}}
{{- end -}}
{{- range $labels := $kustomization.labels -}}
{{- range $object := slice $state.objects $before -}}
{{- include "ctbasis.merge" (list $object (dict "metadata" (dict "labels" $labels.pairs))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Applies the patches of a kustomization. Arguments: the state, the root, the folder. */}}
{{- define "ctbasis.patches" -}}
{{- $state := index . 0 -}}{{- $folder := index . 2 -}}
{{- $kustomization := include "ctbasis.kustomization" (list (index . 1) $folder) | fromYaml -}}
{{- range $kustomization.patches -}}
{{- include "ctbasis.patch" (list $state (fromYaml .patch) (printf "the component %s" (base $folder))) -}}
{{- end -}}
{{- end -}}

{{/* Applies the addresses of the network policies. Arguments: the state, the name of the policy, its targets. */}}
{{- define "ctbasis.egress" -}}
{{- $egress := list -}}
{{- range index . 2 -}}
{{- $port := dict "protocol" "TCP" "port" .port -}}
{{- $egress = append $egress (dict "to" (list (dict "ipBlock" (dict "cidr" .cidr))) "ports" (list $port)) -}}
{{- end -}}
{{- if $egress -}}
{{- $patch := dict "apiVersion" "networking.k8s.io/v1" "kind" "NetworkPolicy" "metadata" (dict "name" (index . 1)) "spec" (dict "egress" $egress) -}}
{{- include "ctbasis.patch" (list (index . 0) $patch "networkPolicy of the values") -}}
{{- end -}}
{{- end -}}

{{/* Refuses components that exclude or need one another. Argument: the map of components. */}}
{{- define "ctbasis.check" -}}
{{- if eq (index . "pipeline-runner") (index . "default-editor") -}}
{{- fail "components: set exactly one of pipeline-runner (single-user Kubeflow) and default-editor (a profile)" -}}
{{- end -}}
{{- range $scheduler := list "gang" "volcano" "yunikorn" "kueue" -}}
{{- if and (index $ $scheduler) (index $ "dynamic-allocation") -}}
{{- fail (printf "components: %s cannot be combined with dynamic-allocation; disable one of them" $scheduler) -}}
{{- end -}}
{{- end -}}
{{- if and (index . "fallback-storage") (not (and (index . "decommissioning") (index . "s3"))) -}}
{{- fail "components: fallback-storage needs decommissioning and s3; enable both" -}}
{{- end -}}
{{- end -}}

{{/* Returns all objects of the release as YAML documents. Argument: the root. */}}
{{- define "ctbasis.objects" -}}
{{- $root := . -}}
{{- include "ctbasis.check" .Values.components -}}
{{- $state := dict "objects" list -}}
{{- $folders := list -}}
{{- range $name, $enabled := .Values.components -}}
{{- if $enabled -}}{{- $folders = append $folders (printf "manifests/components/%s" $name) -}}{{- end -}}
{{- end -}}
{{- range concat (list "manifests/base" "manifests/application") $folders -}}
{{- include "ctbasis.resources" (list $state $root .) -}}
{{- end -}}
{{- range concat (list "manifests/base" "manifests/application") $folders -}}
{{- include "ctbasis.patches" (list $state $root .) -}}
{{- end -}}
{{- include "ctbasis.egress" (list $state "ctbasis-api-server" .Values.networkPolicy.apiServer) -}}
{{- include "ctbasis.egress" (list $state "ctbasis-object-store" .Values.networkPolicy.objectStore) -}}
{{- range .Values.patches -}}
{{- include "ctbasis.patch" (list $state . "patches of the values") -}}
{{- end -}}
{{- $clusterWide := list "Namespace" "PriorityClass" "StorageClass" "ValidatingAdmissionPolicy" "ValidatingAdmissionPolicyBinding" "ResourceFlavor" "ClusterQueue" -}}
{{- range $object := $state.objects -}}
{{- $local := get (default dict $object.metadata.annotations) "config.kubernetes.io/local-config" -}}
{{- if and (ne $local "true") (or $root.Values.clusterObjects (not (has $object.kind $clusterWide))) -}}
{{- if eq $object.kind "Namespace" -}}
{{- $_ := set $object.metadata "name" $root.Release.Namespace -}}
{{- else if not (has $object.kind $clusterWide) -}}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- range $subject := $object.subjects -}}
{{- if not $subject.namespace -}}{{- $_ := set $subject "namespace" $root.Release.Namespace -}}{{- end -}}
{{- end -}}
{{- $text := toYaml $object -}}
{{- range $image, $name := $root.Values.images -}}
{{- if $name -}}{{- $text = replace (printf "ctbasis/%s:%s" $image $root.Chart.AppVersion) $name $text -}}{{- end -}}
{{- end }}
---
{{ $text }}
{{- end -}}
{{- end -}}
{{- end -}}
