// Package spec translates a pod into what CRI wants: a sandbox configuration and container configurations. It only
// computes; what must exist on disk (hosts file, log directory, sub-paths) is made by the caller and passed in.
//
// Names, labels, annotations and places are those of the upstream kubelet 1.37, so that containers made by either kubelet
// are understood by the other and by the tools around (log collectors, crictl, cadvisor).
package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/userns"
)

// Keys that the upstream kubelet writes and reads.
const (
	LabelPodName   = "io.kubernetes.pod.name"
	LabelNamespace = "io.kubernetes.pod.namespace"
	LabelPodUID    = "io.kubernetes.pod.uid"
	LabelContainer = "io.kubernetes.container.name"

	AnnotationHash              = "io.kubernetes.container.hash"
	AnnotationRestarts          = "io.kubernetes.container.restartCount"
	annotationTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationPreStop           = "io.kubernetes.container.preStopHandler"
	annotationPorts             = "io.kubernetes.container.ports"
	annotationDeletionGrace     = "io.kubernetes.pod.deletionGracePeriod"
	annotationGrace             = "io.kubernetes.pod.terminationGracePeriod"
)

// Objects reads what a pod's environment may refer to.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Node is what the translation needs to know of the node.
type Node struct {
	Name string
	// IPs of the node, the primary one first.
	IPs []string
	// ClusterDNS are the cluster's name servers, ClusterDomain its domain ("cluster.local").
	ClusterDNS    []string
	ClusterDomain string
	// ResolvConf is the host's resolver configuration, empty for none.
	ResolvConf string
	// LogsDir holds the pods' logs: /var/log/pods.
	LogsDir string
	// SeccompDefault makes RuntimeDefault the profile of pods that name none. SeccompDir holds localhost profiles.
	SeccompDefault bool
	SeccompDir     string
	// Memory of the machine in bytes, for the OOM score.
	Memory int64
	// CPUCFSQuota enforces CPU limits.
	CPUCFSQuota bool
	// QuotaPeriod is the time slice in which CPU limits count, in microseconds; 0 means 100000.
	QuotaPeriod int64
	// Sysctls are set for each pod, in as far as they are of its own namespaces (defaultPodSysctls).
	Sysctls map[string]string
	// UserNamespace gives the ids of a pod that has a user namespace of its own. Optional: without it such pods are refused.
	UserNamespace func(p *v1.Pod) (*cri.UserNamespace, error)
	// Sets tells where a container runs. Optional.
	Sets func(p *v1.Pod, container string) Sets
	// Tune adds what the node has for the memory of a container. Optional.
	Tune func(p *v1.Pod, c *v1.Container, r *cri.LinuxContainerResources)
	// Allocatable tells what resourceFieldRef gives for limits that are not set.
	Allocatable func() v1.ResourceList
}

// PodLogDir is the directory of all logs of a pod.
func PodLogDir(logsDir string, p *v1.Pod) string {
	return filepath.Join(logsDir, p.Namespace+"_"+p.Name+"_"+string(p.UID))
}

// PodLabels of a sandbox.
func podLabels(p *v1.Pod) map[string]string {
	l := map[string]string{}
	for k, v := range p.Labels {
		l[k] = v
	}
	l[LabelPodName], l[LabelNamespace], l[LabelPodUID] = p.Name, p.Namespace, string(p.UID)
	return l
}

func containerLabels(p *v1.Pod, name string) map[string]string {
	return map[string]string{LabelPodName: p.Name, LabelNamespace: p.Namespace, LabelPodUID: string(p.UID), LabelContainer: name}
}

// containerAnnotations hold what a kubelet needs to know of a container whose pod it no longer has.
func containerAnnotations(p *v1.Pod, c *v1.Container, restarts int) (map[string]string, error) {
	a := map[string]string{
		AnnotationHash:              strconv.FormatUint(pod.Hash(c), 16),
		AnnotationRestarts:          strconv.Itoa(restarts),
		annotationTerminationPath:   c.TerminationMessagePath,
		annotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if s := p.DeletionGracePeriodSeconds; s != nil {
		a[annotationDeletionGrace] = strconv.FormatInt(*s, 10)
	}
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		a[annotationGrace] = strconv.FormatInt(*s, 10)
	}
	if hasPreStop := c.Lifecycle != nil && c.Lifecycle.PreStop != nil; hasPreStop {
		raw, err := json.Marshal(c.Lifecycle.PreStop)
		if err != nil {
			return nil, fmt.Errorf("record preStop hook: %w", err)
		}
		a[annotationPreStop] = string(raw)
	}
	if len(c.Ports) > 0 {
		raw, err := json.Marshal(c.Ports)
		if err != nil {
			return nil, fmt.Errorf("record ports: %w", err)
		}
		a[annotationPorts] = string(raw)
	}
	return a, nil
}

// TerminationMessage tells where a container leaves its last words, and whether its log is to be taken when there are none.
func TerminationMessage(annotations map[string]string) (path string, fallbackToLog bool) {
	return annotations[annotationTerminationPath],
		annotations[annotationTerminationPolicy] == string(v1.TerminationMessageFallbackToLogsOnError)
}

// Restored rebuilds, from what a container was labelled with, as much of its pod as stopping it takes: for pods that were
// deleted while no kubelet ran.
func Restored(labels, annotations map[string]string) (*v1.Pod, error) {
	p := &v1.Pod{}
	p.Name, p.Namespace = labels[LabelPodName], labels[LabelNamespace]
	p.UID = uid(labels[LabelPodUID])
	c := v1.Container{Name: labels[LabelContainer]}
	var err error
	if p.DeletionGracePeriodSeconds, err = seconds(annotations, annotationDeletionGrace); err != nil {
		return nil, err
	}
	if p.Spec.TerminationGracePeriodSeconds, err = seconds(annotations, annotationGrace); err != nil {
		return nil, err
	}
	if raw := annotations[annotationPreStop]; raw != "" {
		c.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{}}
		if err := json.Unmarshal([]byte(raw), c.Lifecycle.PreStop); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", annotationPreStop, err)
		}
	}
	if raw := annotations[annotationPorts]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &c.Ports); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", annotationPorts, err)
		}
	}
	p.Spec.Containers = []v1.Container{c}
	return p, nil
}

func seconds(annotations map[string]string, key string) (*int64, error) {
	raw, ok := annotations[key]
	if !ok {
		return nil, nil
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", key, err)
	}
	return &n, nil
}

// Hostname gives the pod's host name and domain (empty when it has none).
func Hostname(p *v1.Pod, clusterDomain string) (host, domain string) {
	const most = 63
	host = p.Name
	if p.Spec.Hostname != "" {
		host = p.Spec.Hostname
	}
	if p.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", p.Spec.Subdomain, p.Namespace, clusterDomain)
	}
	if o := p.Spec.HostnameOverride; o != nil {
		host, domain = *o, ""
	}
	if len(host) > most {
		host = strings.TrimRight(host[:most], "-.")
	}
	return host, domain
}

// userNamespace is the pod's own, nil when it shares the host's.
func userNamespace(n *Node, p *v1.Pod) (*cri.UserNamespace, error) {
	if !userns.Wanted(p) {
		return nil, nil
	}
	if n.UserNamespace == nil {
		return nil, errors.New("can't set `spec.hostUsers: false`, this kubelet has no ids for it")
	}
	return n.UserNamespace(p)
}

// namespaces of the pod's containers.
func namespaces(n *Node, p *v1.Pod) (*cri.NamespaceOption, error) {
	ids, err := userNamespace(n, p)
	if err != nil {
		return nil, err
	}
	out := hostNamespaces(p)
	out.UsernsOptions = ids
	return out, nil
}

func hostNamespaces(p *v1.Pod) *cri.NamespaceOption {
	n := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Ipc: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		n.Network = cri.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		n.Ipc = cri.NamespaceMode_NODE
	}
	if share := p.Spec.ShareProcessNamespace; share != nil && *share {
		n.Pid = cri.NamespaceMode_POD
	}
	if p.Spec.HostPID {
		n.Pid = cri.NamespaceMode_NODE
	}
	return n
}
