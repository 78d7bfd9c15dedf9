package e2e

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// The Dockerfile can't be tried without a container engine, but what it runs can, and what it promises of the
// program can be looked at.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	instruction := func(pattern string) []string {
		for _, line := range slices.Backward(lines) { // the last stage decides
			if match := regexp.MustCompile(pattern).FindStringSubmatch(line); match != nil {
				return match
			}
		}
		t.Fatalf("the Dockerfile has no line like %s", pattern)
		return nil
	}

	build := instruction(`^RUN (.*\bgo build\b.* -o )/tideover (.*)$`)
	program := filepath.Join(t.TempDir(), "tideover")
	if err := run("..", []string{"VERSION=v7.8.9"}, "sh", "-c", build[1]+program+" "+build[2]); err != nil {
		t.Fatal(err)
	}
	binary, err := elf.Open(program)
	if err != nil {
		t.Skipf("SKIPPED: not a system of containers: %v", err)
	}
	defer binary.Close()
	for _, part := range binary.Progs {
		if part.Type == elf.PT_INTERP {
			t.Error("the program is not static: an image from scratch has no loader for it")
		}
	}
	for command, want := range map[string]string{"version": "v7.8.9", "run --help": "--config"} {
		if out, err := exec.Command(program, strings.Fields(command)...).CombinedOutput(); err != nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("tideover %s: %v, %s; want it to name %s", command, err, out, want)
		}
	}

	instruction(`^FROM scratch$`)
	instruction(`^COPY --from=build /tideover /tideover$`)
	instruction(`^ENTRYPOINT \["/tideover"\]$`)
	instruction(`^CMD \["run", "--config", "/etc/tideover/proxy.yaml"\]$`)
	if user := instruction(`^USER (\d+):(\d+)$`); user[1] == "0" {
		t.Error("the container runs as root")
	}
	if port := instruction(`^EXPOSE (\d+)$`)[1]; !strings.HasSuffix(config.Default().Listen.String(), ":"+port) {
		t.Errorf("the container exposes %s, but tideover listens on %s", port, config.Default().Listen)
	}
	if goVersion := instruction(`^FROM golang:([\d.]+) AS build$`)[1]; !strings.HasPrefix(goDirective(t), goVersion) {
		t.Errorf("the container is built with Go %s, but go.mod wants %s", goVersion, goDirective(t))
	}
}

func goDirective(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(text))[1]
}

// The fields of Kubernetes objects that testdata/kubernetes.yaml uses, in the spelling of the API reference
// (core/v1, apps/v1): a misspelt one, or one in the wrong place, does not decode.
type (
	object struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Data       map[string]string // ConfigMap
		Spec       yaml.Node         // Deployment, Service
	}
	metadata struct {
		Name        string
		Labels      map[string]string
		Annotations map[string]string
	}
	deployment struct {
		Replicas int
		Strategy struct {
			Type          string
			RollingUpdate struct {
				MaxSurge       int `yaml:"maxSurge"`
				MaxUnavailable int `yaml:"maxUnavailable"`
			} `yaml:"rollingUpdate"`
		}
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata metadata
			Spec     pod
		}
	}
	pod struct {
		AutomountServiceAccountToken  *bool `yaml:"automountServiceAccountToken"`
		TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
		SecurityContext               struct {
			RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
			SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
		} `yaml:"securityContext"`
		InitContainers []container `yaml:"initContainers"`
		Containers     []container
		Volumes        []struct {
			Name      string
			ConfigMap struct{ Name string } `yaml:"configMap"`
		}
	}
	container struct {
		Name          string
		Image         string
		RestartPolicy string `yaml:"restartPolicy"`
		Args          []string
		Ports         []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		StartupProbe   *probe `yaml:"startupProbe"`
		ReadinessProbe *probe `yaml:"readinessProbe"`
		LivenessProbe  *probe `yaml:"livenessProbe"`
		Resources      struct {
			Requests, Limits map[string]string
		}
		SecurityContext struct {
			AllowPrivilegeEscalation *bool  `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool   `yaml:"readOnlyRootFilesystem"`
			RunAsUser                *int64 `yaml:"runAsUser"`
			Capabilities             struct{ Drop []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	probe struct {
		HTTPGet struct {
			Path string
			Port string
		} `yaml:"httpGet"`
		PeriodSeconds    int `yaml:"periodSeconds"`
		TimeoutSeconds   int `yaml:"timeoutSeconds"`
		FailureThreshold int `yaml:"failureThreshold"`
	}
	service struct {
		Selector        map[string]string
		SessionAffinity string `yaml:"sessionAffinity"`
		Ports           []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
	}
)

// strictly decodes YAML into a value that must have a field for every key.
func strictly(t *testing.T, text []byte, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("testdata/kubernetes.yaml: %v", err)
	}
}

// The parts of the Kubernetes manifest fit each other and the program: names, ports, labels, probes.
func TestKubernetesManifest(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../testdata/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]object{}
	for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
		documents.KnownFields(true)
		var o object
		if err := documents.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		objects[o.APIVersion+" "+o.Kind] = o
	}
	if len(objects) != 3 {
		t.Fatalf("the manifest has %d objects, want a ConfigMap, a Deployment and a Service", len(objects))
	}
	var d deployment
	var s service
	for kind, into := range map[string]any{"apps/v1 Deployment": &d, "v1 Service": &s} {
		spec := objects[kind].Spec
		again, err := yaml.Marshal(&spec)
		if err != nil {
			t.Fatal(err)
		}
		strictly(t, again, into)
	}
	configMap := objects["v1 ConfigMap"]
	labels := d.Template.Metadata.Labels
	for what, selector := range map[string]map[string]string{"Deployment": d.Selector.MatchLabels, "Service": s.Selector} {
		for key, value := range selector {
			if len(selector) == 0 || labels[key] != value {
				t.Errorf("the %s selects %s=%s, the pods have %v", what, key, value, labels)
			}
		}
	}
	if len(d.Template.Spec.InitContainers) != 1 || len(d.Template.Spec.Containers) != 1 || len(d.Template.Spec.Volumes) != 1 {
		t.Fatal("the pod wants one sidecar, one backend, one volume")
	}
	sidecar, volume := d.Template.Spec.InitContainers[0], d.Template.Spec.Volumes[0]
	if sidecar.RestartPolicy != "Always" {
		t.Error("without restartPolicy: Always it is no sidecar, and its pod never starts")
	}
	if c := sidecar.SecurityContext; !d.Template.Spec.SecurityContext.RunAsNonRoot || c.RunAsUser == nil || *c.RunAsUser == 0 ||
		c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation || !slices.Equal(c.Capabilities.Drop, []string{"ALL"}) {
		t.Error("the sidecar has rights that it does not need")
	}
	if volume.ConfigMap.Name != configMap.Metadata.Name || len(sidecar.VolumeMounts) != 1 || sidecar.VolumeMounts[0].Name != volume.Name {
		t.Error("the ConfigMap is not what is mounted")
	}

	// The configuration is one that the sidecar's own command line finds, and listens where the ports say.
	file := path.Join(sidecar.VolumeMounts[0].MountPath, "proxy.yaml")
	if want := []string{"run", "--config", file}; !slices.Equal(sidecar.Args, want) {
		t.Errorf("the sidecar runs with %v, want %v", sidecar.Args, want)
	}
	cfg, err := config.Parse(file, []byte(configMap.Data["proxy.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	ports := map[string]string{}
	for _, port := range sidecar.Ports {
		ports[port.Name] = fmt.Sprintf(":%d", port.ContainerPort)
	}
	if cfg.Listen.String() != ports["ws"] || cfg.Admin.Listen.String() != ports["admin"] {
		t.Errorf("tideover listens on %s and %s, the container's ports are %v", cfg.Listen, cfg.Admin.Listen, ports)
	}
	if len(s.Ports) != 1 || ports[s.Ports[0].TargetPort] != cfg.Listen.String() {
		t.Errorf("the Service leads to %v, want the port ws", s.Ports)
	}

	// The probes ask what the program answers, before there is any backend.
	var all map[string]any
	if err := yaml.Unmarshal([]byte(configMap.Data["proxy.yaml"]), &all); err != nil {
		t.Fatal(err)
	}
	flat := settings{"session.key": nil, "session.grace": nil, "events.away": nil, "events.reconnected": nil, "events.left": nil}
	for key, value := range all {
		if key != "listen" && key != "admin" && key != "upstream" {
			flat[key] = value
		}
	}
	p := startProxy(t, proxytest.FreeAddr(t), flat)
	for name, probe := range map[string]*probe{"startup": sidecar.StartupProbe, "readiness": sidecar.ReadinessProbe, "liveness": sidecar.LivenessProbe} {
		if probe == nil || ports[probe.HTTPGet.Port] != cfg.Admin.Listen.String() {
			t.Errorf("the %s probe does not ask the admin port", name)
			continue
		}
		if response, _ := get(t, "http://"+p.admin+probe.HTTPGet.Path); response.StatusCode != http.StatusOK {
			t.Errorf("the %s probe is answered with %s", name, response.Status)
		}
	}
}
