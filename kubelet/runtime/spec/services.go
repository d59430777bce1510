package spec

import (
	"net"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serviceVars are the variables that tell of services: always of default/kubernetes, and of all in the pod's namespace
// unless enableServiceLinks is false. Services without a cluster IP are left out.
func serviceVars(src *EnvSource) []Var {
	links := src.Pod.Spec.EnableServiceLinks == nil || *src.Pod.Spec.EnableServiceLinks
	chosen := map[string]*v1.Service{}
	for _, s := range src.Services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == metav1.NamespaceDefault && s.Name == "kubernetes"
		own := s.Namespace == src.Pod.Namespace && links
		if own || (master && chosen[s.Name] == nil) {
			chosen[s.Name] = s
		}
	}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	sort.Strings(names)
	var list []Var
	for _, name := range names {
		list = append(list, varsOf(chosen[name])...)
	}
	return list
}

// varsOf gives the {NAME}_SERVICE_* variables and, for old clients, the Docker link variables.
func varsOf(s *v1.Service) []Var {
	prefix := varName(s.Name)
	ports := s.Spec.Ports
	list := []Var{
		{prefix + "_SERVICE_HOST", s.Spec.ClusterIP},
		{prefix + "_SERVICE_PORT", strconv.Itoa(int(ports[0].Port))},
	}
	for _, p := range ports {
		if p.Name != "" {
			list = append(list, Var{prefix + "_SERVICE_PORT_" + varName(p.Name), strconv.Itoa(int(p.Port))})
		}
	}
	for i, p := range ports {
		proto := strings.ToLower(string(p.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		number := strconv.Itoa(int(p.Port))
		url := proto + "://" + net.JoinHostPort(s.Spec.ClusterIP, number)
		if i == 0 {
			list = append(list, Var{prefix + "_PORT", url})
		}
		link := prefix + "_PORT_" + number + "_" + strings.ToUpper(proto)
		list = append(list, Var{link, url}, Var{link + "_PROTO", proto}, Var{link + "_PORT", number}, Var{link + "_ADDR", s.Spec.ClusterIP})
	}
	return list
}

func varName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
