package spec

import (
	"context"
	"fmt"
	"sort"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-node/skiff/kubelet/downward"
)

// Var is one environment variable.
type Var struct{ Name, Value string }

// EnvSource is where the values of an environment come from.
type EnvSource struct {
	Node    *Node
	Pod     *v1.Pod
	Objects Objects
	// Services that exist; see serviceVars for those that are shown.
	Services []*v1.Service
	// PodIPs, the primary one first.
	PodIPs []string
}

// environment collects variables; a later value replaces an earlier one of the same name.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// Env makes the environment of a container: services, then envFrom, then env, each able to refer to what came before by
// $(NAME).
func Env(ctx context.Context, src *EnvSource, c *v1.Container) ([]Var, error) {
	e := &environment{values: map[string]string{}}
	for _, v := range serviceVars(src) {
		e.set(v.Name, v.Value)
	}
	for i := range c.EnvFrom {
		if err := e.from(ctx, src, &c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		v := &c.Env[i]
		if v.ValueFrom == nil {
			value, _ := Expand(v.Value, func(name string) (string, bool) { s, ok := e.values[name]; return s, ok })
			e.set(v.Name, value)
			continue
		}
		value, ok, err := src.value(ctx, c, v.ValueFrom)
		if err != nil {
			return nil, err
		}
		if ok {
			e.set(v.Name, value)
		}
	}
	list := make([]Var, 0, len(e.names))
	for _, name := range e.names {
		list = append(list, Var{name, e.values[name]})
	}
	return list, nil
}

// from adds all keys of a ConfigMap or Secret.
func (e *environment) from(ctx context.Context, src *EnvSource, f *v1.EnvFromSource) error {
	pairs := map[string]string{}
	switch {
	case f.ConfigMapRef != nil:
		cm, err := src.Objects.ConfigMap(ctx, src.Pod.Namespace, f.ConfigMapRef.Name)
		if missing(err, f.ConfigMapRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		pairs = cm.Data
	case f.SecretRef != nil:
		secret, err := src.Objects.Secret(ctx, src.Pod.Namespace, f.SecretRef.Name)
		if missing(err, f.SecretRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		for k, v := range secret.Data {
			pairs[k] = string(v)
		}
	}
	keys := make([]string, 0, len(pairs))
	for k := range pairs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		e.set(f.Prefix+k, pairs[k])
	}
	return nil
}

func missing(err error, optional *bool) bool {
	return err != nil && apierrors.IsNotFound(err) && isTrue(optional)
}

// value resolves a valueFrom; not ok means that the source is optional and missing.
func (src *EnvSource) value(ctx context.Context, c *v1.Container, from *v1.EnvVarSource) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		s, err := downward.Env(src.Pod, from.FieldRef.FieldPath, src.PodIPs, src.Node.IPs)
		return s, true, err
	case from.ResourceFieldRef != nil:
		s, err := downward.Resource(src.Pod, c.Name, from.ResourceFieldRef, src.Node.Allocatable())
		return s, true, err
	case from.ConfigMapKeyRef != nil:
		return src.configMapKey(ctx, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return src.secretKey(ctx, from.SecretKeyRef)
	case from.FileKeyRef != nil:
		return "", false, fmt.Errorf("env valueFrom.fileKeyRef is not supported by this kubelet yet")
	}
	return "", true, nil
}

func (src *EnvSource) configMapKey(ctx context.Context, ref *v1.ConfigMapKeySelector) (string, bool, error) {
	cm, err := src.Objects.ConfigMap(ctx, src.Pod.Namespace, ref.Name)
	if missing(err, ref.Optional) {
		return "", false, nil
	} else if err != nil {
		return "", false, err
	}
	value, ok := cm.Data[ref.Key]
	if !ok && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, src.Pod.Namespace, ref.Name)
	}
	return value, ok, nil
}

func (src *EnvSource) secretKey(ctx context.Context, ref *v1.SecretKeySelector) (string, bool, error) {
	secret, err := src.Objects.Secret(ctx, src.Pod.Namespace, ref.Name)
	if missing(err, ref.Optional) {
		return "", false, nil
	} else if err != nil {
		return "", false, err
	}
	value, ok := secret.Data[ref.Key]
	if !ok && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, src.Pod.Namespace, ref.Name)
	}
	return string(value), ok, nil
}
